"""Data sets in memory, read and checked once, and the order in which training walks through them.

readers.py  data sets and single images: formats of folders and files, checks, Dataset
cifar.py    the records of CIFAR-10's and CIFAR-100's binary version
augment.py  random changes of training images, by name: add one here
loader.py   mini-batches: order, augmentation, normalisation
"""

from foveal.arguments import check_calls
from foveal.data.augment import augmentation, random_crop_flip
from foveal.data.loader import Loader, normalise
from foveal.data.readers import Dataset, from_arrays, load, read_image

__all__ = ["Dataset", "Loader", "augmentation", "from_arrays", "load", "normalise", "random_crop_flip", "read_image"]

check_calls(__name__)
