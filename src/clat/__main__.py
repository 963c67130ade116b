"""Run the command line for `python -m clat`."""

from clat.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
