"""`python -m clat`: the command line."""

from clat.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
