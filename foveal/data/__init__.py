"""Data sets in memory, read and checked once, and the order in which training walks them."""

from foveal.data.loader import Loader, augmentation, normalise, random_crop_flip
from foveal.data.readers import Dataset, from_arrays, load, read_image

__all__ = ["Dataset", "Loader", "augmentation", "from_arrays", "load", "normalise", "random_crop_flip", "read_image"]
