"""The rows of each study: tables of recipes, one file a table."""
