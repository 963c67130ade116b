"""The ground that every other folder stands on: errors, argument checks, units, seeds, files, number formatting."""
