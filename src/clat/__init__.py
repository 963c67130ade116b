"""clat: Criticality-Leveraged Adversarial Training."""
