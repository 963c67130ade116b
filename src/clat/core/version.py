"""The version: the one place that says it. The build, the command line, results and runs read it from here."""

__version__ = "0.2.0"
