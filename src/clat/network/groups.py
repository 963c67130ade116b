"""Sort layers into groups in which a ranking compares like with like: attention, MLPs, convolutions.

A projection of attention, the wide layer of an MLP and a strided convolution change a feature's size and scale in
ways of their own, so that across them a ranking by ratios mostly tells which sort a layer is of.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from clat.core.errors import unknown

ATTENTION_NAMES = ("*attn*", "*attention*", "*qkv*", "*q_proj", "*k_proj", "*v_proj", "*.to_[qkv]", "*.to_out*")
"""What layers within attention are called in torchvision, timm, transformers and diffusers."""
MLP_NAMES = ("*mlp*", "*ffn*", "*feed_forward*")
"""What convolutions of size 1 are called that stand for the linear layers of an MLP."""

LAYER_GROUPS = {
    "attention": "attention modules and the projections within attention, by their names",
    "mlp": "the other linear layers, and convolutions that are named as parts of an MLP",
    "convolutions": "the other convolutions",
}
"""Name -> the layers in it; no layer is in two."""


def group_of(name: str, kind: str) -> str | None:
    """Return the group of the layer `name`.

    Args:
        name: the module's name in the network, such as "blocks.0.attn.qkv".
        kind: "conv", "linear", "attention" or "other", as `Layer.kind`.

    Returns:
        A name in LAYER_GROUPS; None for a block that was made a layer by a pattern.
    """
    if kind == "attention" or (kind != "other" and _is_called(name, ATTENTION_NAMES)):
        return "attention"
    if kind == "linear" or (kind == "conv" and _is_called(name, MLP_NAMES)):
        return "mlp"
    return "convolutions" if kind == "conv" else None


def check_group(group: str | None) -> None:
    """Raise an error if there is no such group of layers.

    Args:
        group: a name in LAYER_GROUPS, or None for all layers.

    Raises:
        ClatError: there is none of that name; the message gives the nearest valid one.
    """
    if group is not None and group not in LAYER_GROUPS:
        raise unknown("group of layers", group, LAYER_GROUPS)


def _is_called(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)
