"""A campaign that looks for faults nobody has thought of: kills at random moments, and hostile inputs.

`python -m tests.robustness --out docs/results/robustness.json` runs it and writes the counts down.
"""
