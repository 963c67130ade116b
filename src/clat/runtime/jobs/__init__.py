"""Commands that run beside one another, on this machine or on a cluster."""
