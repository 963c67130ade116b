"""A device that computes on the CPU and refuses what a GPU refuses: tensors of two places in one operation."""
