"""Image data: look into it (`inspect_data`), read it (`load_split`, `as_image_set`), hold some out (`hold_out`),
serve it in batches (`Loader`), augmented (`Augment`, `IDBH`, `ImagenetAugment`, `PerImage`) and beside generated
images (`open_generated`, `Extra`)."""

from clat.core.checks import check_images, check_labels
from clat.data.augment import Augment, BatchAugment
from clat.data.cache import cache_root, data_root
from clat.data.datasets import load_split
from clat.data.fetch import fetch_data
from clat.data.generated import Extra, open_generated
from clat.data.given import as_image_set, as_train_and_test
from clat.data.idbh import IDBH, IDBH_VARIANTS
from clat.data.imagenet import ImagenetAugment, ImagenetSettings
from clat.data.imageset import ImageSet
from clat.data.inspection import DataReport, inspect_data
from clat.data.loader import Loader
from clat.data.per_image import PerImage
from clat.data.splits import hold_out

__all__ = [
    "IDBH",
    "IDBH_VARIANTS",
    "Augment",
    "BatchAugment",
    "DataReport",
    "Extra",
    "ImageSet",
    "ImagenetAugment",
    "ImagenetSettings",
    "Loader",
    "PerImage",
    "as_image_set",
    "as_train_and_test",
    "cache_root",
    "check_images",
    "check_labels",
    "data_root",
    "fetch_data",
    "hold_out",
    "inspect_data",
    "load_split",
    "open_generated",
]
