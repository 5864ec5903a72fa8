"""Data sets in memory, read and checked once, and the order in which training walks through them.

readers.py     `load`: the kinds of folders and files that hold a data set
formats/       data sets that are stored as arrays: IDX, CIFAR, NumPy's archives, scikit-learn's digits
scanning/      `scan`: which images a folder, a table, shards or parquet files hold, and their parts
decoding/      image files as arrays: pixels of any kind as what a network takes, and where they are kept
remote/        data sets and weights that have a name: fetched with a checksum
files.py       the bytes of a file, unpacked as far as they are wanted
classes.py     names of classes: of labels without names, and which classes of two data sets are the same
statistics.py  bytes as floats, mean and standard deviation, normalisation
dataset.py     Dataset, and the checks of the four arrays that make one
transforms/    random changes of images, by torchvision's names
augment.py     what they make together, by name: add one here
sources.py     what a loader takes its items from: arrays, sequences, generators
threads.py     work in threads whose results come in order; bars
loader.py      mini-batches: order, augmentation, normalisation, reading ahead

Of the folders `scanning/` imports `decoding/`, and so does `remote/`; `readers.py` puts them together.
"""

from typing import TYPE_CHECKING, NoReturn

from foveal.arguments import check_calls
from foveal.data import transforms
from foveal.data.augment import augmentation, random_crop_flip
from foveal.data.dataset import Dataset, from_arrays
from foveal.data.decoding.image_array import ImageArray
from foveal.data.decoding.images import read_image
from foveal.data.decoding.preprocessing import Preprocessing
from foveal.data.loader import Loader, normalise
from foveal.data.readers import load
from foveal.data.remote.hub import fetch
from foveal.data.remote.pretrained import transforms_of
from foveal.data.scanning.image_files import ImageFiles
from foveal.data.scanning.listing import Problem
from foveal.data.scanning.scan import scan
from foveal.data.statistics import scaled
from foveal.names import missing_in

__all__ = [
    "Dataset",
    "ImageArray",
    "ImageFiles",
    "Loader",
    "Preprocessing",
    "Problem",
    "augmentation",
    "fetch",
    "from_arrays",
    "load",
    "normalise",
    "random_crop_flip",
    "read_image",
    "scaled",
    "scan",
    "transforms",
    "transforms_of",
]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__


# Type checkers would take every name for one that exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(missing_in("foveal.data", name, __all__), name=name)
