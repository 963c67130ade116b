"""Cutting a held-out part off the training set: what decides things, so that the test set need not."""

from __future__ import annotations

from collections import Counter

from clat.core.errors import ClatError
from clat.core.seeds import permutation
from clat.data.imageset import ImageSet
from clat.data.sample import in_mixed_order


def hold_out(image_set: ImageSet, n: int, seed: int, train_size: int | None = None) -> tuple[ImageSet, ImageSet]:
    """Split n random images off a set.

    The first n of ``permutation(N, seed, "hold_out")`` are held out and the following `train_size` (default: all)
    are trained on, so with one seed a smaller training set is part of every larger one and the held-out part stays
    the same. Both keep the files' order; where that does not mix the classes, the held-out part does not, so that
    its first images stand for all of it. The cut is the same on every machine.

    Args:
        image_set: the set to cut, of N images.
        n: images to hold out, 0 or more.
        seed: decides which.
        train_size: images to train on, at least 1.

    Returns:
        (train, held out); they share no image.

    Raises:
        ClatError: n is negative, or there are not n + train_size images, or none is left for training.
    """
    total, here = len(image_set), f"'{image_set.name}/{image_set.split}'"
    if n < 0:
        raise ClatError(f"cannot hold out {n} images of {here}: give 0 or more")
    if n >= total:
        raise ClatError(
            f"cannot hold out {n} of the {total} images of {here}: at least one must be left to train on; hold out "
            f"{max(total // 10, 1)}, say"
        )
    left = total - n
    if train_size is None:
        train_size = left
    if not 1 <= train_size <= left:
        raise ClatError(
            f"cannot train on {train_size} images of {here}: with {n} of {total} held out, give 1 to {left}"
        )
    order = permutation(total, seed, "hold_out")
    train = image_set.subset(order[n : n + train_size].sort().values)
    held = order[:n].sort().values if in_mixed_order(image_set.labels) else order[:n]
    return train, image_set.subset(held)


def images_in_both(train: ImageSet, heldout: ImageSet) -> int:
    """Return how many held-out images are trained on as well, since their set holds them more than once.

    Args:
        train: a set.
        heldout: another one.

    Returns:
        A number; 0 where the pixels of one of them are not in memory.
    """
    if not (train.resident and heldout.resident):
        return 0
    held, trained = (
        Counter(image.tobytes() for image in part.pixels().cpu().contiguous().numpy()) for part in (heldout, train)
    )
    return sum(count for image, count in held.items() if image in trained)


def mixed(image_set: ImageSet) -> ImageSet:
    """Return a set whose first images stand for all of it.

    Args:
        image_set: any set.

    Returns:
        The set itself, or where its order does not mix the classes the same images in a random order.
    """
    if in_mixed_order(image_set.labels):
        return image_set
    return image_set.subset(permutation(len(image_set), 0, "mixed"))
