"""A small folder in ImageNet's layout from a data set of ImageNet-shaped pictures: train and val, a folder a class.

    python -m benchmarks.imagenet_folder --data imagenet-nips17 --split test --least 3 --out runs/imagenet-small

Only classes with at least `--least` pictures; the last one of each becomes val, the others train, as PNG, in the
order of the data set. For the training half of table T16, which shows that its cells run.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from PIL import Image

import clat
from clat.core.errors import ClatError


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="imagenet-nips17", help="a data set's name or folder")
    options.add_argument("--split", default="test")
    options.add_argument("--least", type=int, default=3, help="pictures of a class, at least 2")
    options.add_argument("--out", type=Path, required=True, help="a new folder")
    chosen = options.parse_args()
    if chosen.least < 2:
        options.error("--least is below 2: a class needs a picture of each split")
    if chosen.out.exists():
        raise ClatError(f"{chosen.out} is there: name a new folder")
    print(write_folder(clat.load_split(chosen.data, chosen.split), chosen.least, chosen.out))


def write_folder(images: clat.ImageSet, least: int, out: Path) -> str:
    """Write the folder and return how much is in it."""
    of_class: dict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(images.labels.tolist()):
        of_class[label].append(number)
    kept = {label: numbers for label, numbers in sorted(of_class.items()) if len(numbers) >= least}
    for label, numbers in kept.items():
        for split, part in (("train", numbers[:-1]), ("val", numbers[-1:])):
            folder = out / split / f"{label:04d}"
            folder.mkdir(parents=True)
            for number in part:
                pixels = images.subset([number]).pixels()[0]
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:05d}.png")
    return f"{sum(map(len, kept.values()))} pictures of {len(kept)} classes in {out}"


if __name__ == "__main__":
    main()
