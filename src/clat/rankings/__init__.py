"""Ways to rank the layers of a network beside CLAT's criticality, one file each, and how far they agree."""
