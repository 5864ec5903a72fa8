"""ImageFiles: the image files of a data set, listed and divided into parts before any of them is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveal.data.dataset import Dataset, Labels
from foveal.data.preprocessing import WHITE
from foveal.errors import DataError

#: The parts of a data set, by name.
TRAIN, VALIDATION, TEST = "train", "validation", "test"


class Problem(NamedTuple):
    """What is wrong with one file, or said about it."""

    path: str
    #: Such as "truncated", "unreadable", "hostile", "wrong extension".
    kind: str
    text: str


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """The image files of a data set: their paths, classes and parts, and what their headers say."""

    #: The name of the data set.
    name: str
    #: The path of each image.
    paths: list[str]
    #: The class of each image [n], from 0 to K - 1.
    labels: Labels
    #: The names of the K classes.
    classes: tuple[str, ...]
    #: The part of each image [n]: "train", "validation" or "test".
    parts: NDArray[np.str_]
    #: Width and height of each image [n, 2], upright.
    sizes: NDArray[np.int64]
    #: 1 if all images are grey, else 3.
    channels: int
    #: Files that are left out, and what else is to be said of a file.
    problems: list[Problem]
    #: The colour under what is transparent.
    background: tuple[int, int, int] = WHITE
    #: True to raise an error for a file that cannot be decoded; else it is left out and said.
    strict: bool = False

    def dataset(self, size: tuple[int, int], channels: int | None = None, fit: str = "stretch") -> Dataset:
        """Return the images, decoded at that size (rows, columns), as a Dataset."""
        raise DataError(f"{self.name}: image files cannot be decoded yet")


def scan(
    path: str | Path,
    *,
    group_by: str | None = None,
    split: float | tuple[float, float] | None = None,
    seed: int = 0,
    strict: bool = False,
    background: tuple[int, int, int] = WHITE,
) -> ImageFiles:
    """List the image files of a folder or a table."""
    raise DataError(f"{path}: folders of images cannot be read yet")
