"""The papers' tables and figures, one command each: `clat paper T7`, ours beside what is printed."""
