"""Do or ask anything of an arbitrary `nn.Module`: its layers, features, modes, cost, precision, folding.

Importing it guards the gradients of every network in the process (`clat.network.strided_gradient`): whatever runs a
backward pass imports something from this folder.
"""

from clat.network.strided_gradient import guard_strided_gradients

guard_strided_gradients()
