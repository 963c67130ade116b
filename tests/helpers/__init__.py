"""What several test files share, imported plainly: `from helpers import runs`."""
