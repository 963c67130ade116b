"""Choose the state dict that is meant in a weight file: scripts nest them, and keep averages beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clat.core.errors import ClatError, unknown
from clat.core.formatting import counted
from clat.core.notices import notice
from clat.models.names import STATISTICS_NAMES, is_averaged, surrounded, without_wrapper_parts

StateDict = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
"""Keys under which training scripts nest the weights; earlier ones win where a file has several."""

_DEPTH = 8
"""How deep a file is looked into; a hostile one may hold itself."""


def choose_state(content: Any, path: Path, key: str | None = None) -> StateDict:
    """Return the state dict of a file's content that is meant, and tell which others there were.

    Args:
        content: What the file holds.
        path: The file, for messages.
        key: The key of the wanted one, dotted where it is nested ("run.ema"); or the prefix of the wanted names in
            a flat state dict ("ema_model"). None: the one under the first of WRAPPERS, however deep; an average
            only where there is nothing else.

    Returns:
        Its tensors by their names in the file, those of a prefix along with the normalisations beside them. Entries
        that are no tensors are left out.

    Raises:
        ClatError: There is no state dict, or none under the key.
    """
    place = _usual_place(content)
    if key is not None:
        return _under_key(content, place, path, key)
    taken = _follow(content, place)
    state = _tensors(taken)
    if not state:
        raise _nothing(content, path)
    others = [
        name
        for name, other in _state_dicts(content)
        if other is not taken and _alike(state, _tensors(other)) and not _same(state, _tensors(other))
    ]
    took = f"'{'.'.join(place)}'" if place else "the entries at its top"
    for name, count in _nameless(content, state):
        notice(
            f"weights {path}: took {took}; the file also holds '{name}', {counted(count, 'tensor')} "
            "without names, such as an average of the weights, which cannot be taken; save them as a state_dict"
        )
    if others:
        listed = ", ".join(f"'{name}'" for name in others[:5])
        notice(
            f"weights {path}: took {took}; the file also holds {listed}, "
            f"which weights_key (--weights-key {others[0]}) would take"
        )
    return state


def _usual_place(content: Any) -> list[str]:
    """Return the keys that lead to the innermost state dict by the usual names."""
    place: list[str] = []
    while isinstance(content, Mapping) and len(place) < _DEPTH:
        nested = [k for k, v in content.items() if isinstance(k, str) and isinstance(v, Mapping) and _has_state(v)]
        names = [key for key in WRAPPERS if key in nested]
        if not names and not _tensors(content):  # beside weights, an average is no place to go
            names = _only_one(content, nested)
        if not names:
            break
        place.append(names[0])
        content = content[names[0]]
    return place


def _only_one(content: Mapping[str, Any], nested: list[str]) -> list[str]:
    """Return the keys that may be meant where none has a usual name: averages, or the one that they are of."""
    averaged = [key for key in nested if is_averaged(key)]
    if not averaged:
        return []
    states = {key: _tensors(_follow(content[key], _usual_place(content[key]))) for key in nested}
    raw = [key for key in nested if key not in averaged and _as_large(states[averaged[0]], states[key])]
    return raw if len(raw) == 1 else [] if raw else averaged


def _follow(content: Any, place: list[str]) -> Any:
    for key in place:
        content = content[key]
    return content


def _under_key(content: Any, place: list[str], path: Path, key: str) -> StateDict:
    usual, found = _follow(content, place), dict(_mappings(content)).get(key)
    flat, short = _tensors(usual), f"{without_wrapper_parts(key)}."
    below = {name for name in flat if name.startswith(f"{key}.") or without_wrapper_parts(name).startswith(short)}
    meant = None if found is None else _follow(found, _usual_place(found))
    if meant is not None:
        return _tensors(meant)
    if below:
        return {name: value for name, value in flat.items() if name in below or _normalises(name, short)}
    valid = [name for name, _ in _state_dicts(content) if name]
    if not valid:
        if not flat:
            raise _nothing(content, path)
        raise ClatError(f"weights {path}: no key or prefix '{key}' in it, it is a plain state dict; leave it out")
    raise unknown(f"key of weights {path}:", key, valid)


def _normalises(name: str, prefix: str) -> bool:
    """Return whether an entry is a mean or std that stands beside what names under a prefix are part of."""
    module, _, last = name.rpartition(".")
    return last in STATISTICS_NAMES and prefix.startswith(surrounded(module))


def _nothing(content: Any, path: Path) -> ClatError:
    """Return the error for a file without a state dict at a usual place."""
    keys = list(content) if isinstance(content, Mapping) else []
    held = f"the entries {', '.join(map(str, keys[:5]))}" if keys else f"a {type(content).__name__}"
    unusual = sorted(name for name, _ in _state_dicts(content) if name)
    cure = "save the network's state_dict()"
    if unusual:
        cure = f"name one with weights_key: {', '.join(unusual[:5])}"
    return ClatError(f"weights {path}: no state dict in it, only {held}; {cure}")


def _mappings(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield every dict that holds tensors somewhere below text keys, with its dotted key ('' for the file)."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    if _has_state(content):
        yield place, content
        for key, value in content.items():
            if isinstance(key, str):
                yield from _mappings(value, f"{place}.{key}" if place else key, depth + 1)


def _state_dicts(content: Any) -> list[tuple[str, Mapping[Any, Any]]]:
    """Return those of `_mappings` that hold tensors themselves."""
    return [(name, found) for name, found in _mappings(content) if _tensors(found)]


def _has_state(content: Mapping[Any, Any], depth: int = 0) -> bool:
    """Return whether a dict holds a tensor under text keys. Numbered ones are an optimizer's."""
    named = [value for key, value in content.items() if isinstance(key, str)]
    if any(isinstance(value, Tensor) for value in named):
        return True
    return depth < _DEPTH and any(isinstance(v, Mapping) and _has_state(v, depth + 1) for v in named)


def _tensors(content: Any) -> StateDict:
    entries = content.items() if isinstance(content, Mapping) else ()
    return {key: value.detach() for key, value in entries if isinstance(key, str) and isinstance(value, Tensor)}


def _nameless(content: Any, state: StateDict, place: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """Yield the dotted key and length of lists that have the shapes of a network's parameters, in their order."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        where = f"{place}.{key}" if place else key
        if isinstance(value, list | tuple) and value and all(isinstance(one, Tensor) for one in value):
            shapes = iter(tensor.shape for tensor in state.values())
            # Buffers stand between the parameters of a state dict; half of its entries at least are parameters.
            if 2 * len(value) >= len(state) and all(one.shape in shapes for one in value):
                yield where, len(value)
        yield from _nameless(value, state, where, depth + 1)


def _alike(state: StateDict, other: StateDict) -> bool:
    """Return whether both hold weights of one network: half of the smaller one's names end like the other's."""
    ends, others = ({tuple(name.split(".")[-2:]) for name in one} for one in (state, other))
    return 2 * len(ends & others) >= min(len(ends), len(others))


def _as_large(state: StateDict, other: StateDict) -> bool:
    """Return whether both hold the weights of one whole network, not of a part of it."""
    return bool(other) and _alike(state, other) and 2 * min(len(state), len(other)) >= max(len(state), len(other))


def _same(state: StateDict, other: StateDict) -> bool:
    """Return whether both hold the very same tensors."""
    return state.keys() == other.keys() and all(state[name].data_ptr() == other[name].data_ptr() for name in state)
