"""Data sets in memory, read and checked once, and the order in which training walks through them.

readers.py     `load`: the kinds of folders and files that hold a data set
digits.py      scikit-learn's digits
dataset.py     Dataset, and the checks of the four arrays that make one
classes.py     names of classes: of labels without names, and which classes of two data sets are the same
statistics.py  bytes as floats, mean and standard deviation, normalisation
idx.py         the files of MNIST and EMNIST
cifar.py       the records of CIFAR-10's and CIFAR-100's binary version
npz.py         NumPy's archives
download.py    data sets that have a name: where they are looked for, and fetched with a checksum
files.py       the bytes of a file, unpacked as far as they are wanted
images.py      single image files
pixels.py      pixels of any kind as bytes: wide numbers, transparency, ICC profiles
preprocessing.py  how an image of any kind becomes what a network takes; stands in model files
scanning.py    `scan`: the files of a folder or a table, their headers, their parts
listing.py     which images a folder holds: classes, parts, what is left out
tables.py      tables of images: CSV and JSON lines
shards.py      images in tar shards, as WebDataset names them
parquet.py     images in parquet files, as Hugging Face's data sets are stored
members.py     addresses of images that lie inside of other files
splits.py      parts by the seed, with the same share of each class, and whole groups
membership.py  which part each image file was in when a run began
image_files.py ImageFiles: the image files of a data set before and while they are decoded
image_array.py ImageArray: image files as an array whose rows are decoded when they are read
storage.py     where decoded images are kept: in memory, in a mapped file, or nowhere
threads.py     work in threads whose results come in order; bars
augment.py     random changes of training images, by name: add one here
transforms/    the transforms that they are made of, by torchvision's names
loader.py      mini-batches: order, augmentation, normalisation, reading ahead
pretrained.py  weights of other people by name, and the preprocessing that stored weights expect
hub.py         weights from the Hugging Face hub
sources.py     what a loader takes its items from: arrays, sequences, generators
"""

from typing import TYPE_CHECKING, NoReturn

from foveal.arguments import check_calls
from foveal.data import transforms
from foveal.data.augment import augmentation, random_crop_flip
from foveal.data.dataset import Dataset, from_arrays
from foveal.data.hub import fetch
from foveal.data.image_array import ImageArray
from foveal.data.image_files import ImageFiles
from foveal.data.images import read_image
from foveal.data.listing import Problem
from foveal.data.loader import Loader, normalise
from foveal.data.preprocessing import Preprocessing
from foveal.data.pretrained import transforms_of
from foveal.data.readers import load
from foveal.data.scanning import scan
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
