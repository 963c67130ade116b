"""Anything done to or asked of an arbitrary `nn.Module`: its layers, features, modes, cost, precision, folding."""
