"""CIFAR-10 and CIFAR-100 in their binary version (Krizhevsky 2009, www.cs.toronto.edu/~kriz/cifar.html).

A file is records and nothing else. A record is one byte per label (CIFAR-100: the coarse class, then the fine one),
then the red, the green and the blue plane, each 32 rows of 32 bytes. A text file names the classes, one on a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal.data.files import fill, is_packed, opened
from foveal.errors import DataError

# Shape of one image: channels, rows, columns.
PIXELS = (3, 32, 32)
# The most images that a gzipped file is unpacked to: as many as both data sets have in all.
MAX_RECORDS = 60_000
# Records that are read at a time: 3 MB, which stay in a cache while they are taken apart.
BLOCK = 1024
# The most bytes of a file of names.
NAMES_BYTES = 1 << 16


@dataclass(frozen=True)
class Version:
    """One of the two data sets in its binary version."""

    name: str
    # Its files: for training, for testing, and the names of the classes.
    train: tuple[str, ...]
    test: str
    names: str
    # How many values each label of a record has; the last label is the class.
    labels: tuple[int, ...]
    # Files of the Python version, which are pickles.
    python: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """All files."""
        return (*self.train, self.test, self.names)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.labels[-1]

    @property
    def download(self) -> str:
        """The archive to fetch, and from where."""
        return f"{self.name.lower()}-binary.tar.gz from www.cs.toronto.edu/~kriz/cifar.html"


CIFAR10 = Version(
    "CIFAR-10",
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test_batch.bin",
    "batches.meta.txt",
    (10,),
    ("data_batch_1", "test_batch"),
)
CIFAR100 = Version(
    "CIFAR-100", ("train.bin",), "test.bin", "fine_label_names.txt", (20, 100), ("train", "test", "meta")
)


def read_records(version: Version, paths: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the images, uint8 [n, 3, 32, 32], and classes, uint8 [n], of some files, one after the other.

    Raises DataError if a file holds no whole number of records, or a label outside of its range, or, being gzipped, far
    more records than the data set has. Bytes are copied once, a block of records at a time.
    """
    labels, size = len(version.labels), record_bytes(version)
    # What a packed file holds is not known before it is read; memory that is not written is not taken.
    most = [MAX_RECORDS if is_packed(path) else path.stat().st_size // size for path in paths]
    images, classes = np.empty((sum(most), *PIXELS), np.uint8), np.empty(sum(most), np.uint8)
    count = 0
    for path, limit in zip(paths, most, strict=True):
        for table in blocks(version, path, limit):
            end = count + len(table)
            images[count:end] = table[:, labels:].reshape(-1, *PIXELS)
            classes[count:end] = table[:, labels - 1]
            count = end
    return images[:count], classes[:count]


def blocks(version: Version, path: Path, limit: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the records of a file, uint8 [n, bytes], BLOCK at most at a time, in memory that the next ones take."""
    size, total = record_bytes(version), 0
    buffer = np.empty(BLOCK * size, np.uint8)
    with opened(path) as stream:
        while read := fill(stream, buffer):
            total += read
            if total > limit * size and total % size == 0:
                raise DataError(
                    f"{path}: holds more than {limit:,} images, {limit * size:,} bytes; it is damaged or another file"
                )
            if total % size:
                break
            table = buffer[:read].reshape(-1, size)
            check_labels(version, path, table, total // size - len(table))
            yield table
    if total % size or not total:
        raise DataError(
            f"{path}: {total} bytes are no whole number of {version.name}'s records of {size}; it is damaged or "
            f"another file, take it again out of {version.download}"
        )


def record_bytes(version: Version) -> int:
    """Return the bytes of a record."""
    return len(version.labels) + math.prod(PIXELS)


def check_labels(version: Version, path: Path, table: NDArray[np.uint8], first: int) -> None:
    """Raise DataError for a label that is outside of its range; `first` is the number of the first record."""
    for column, count in enumerate(version.labels):
        wrong = np.flatnonzero(table[:, column] >= count)
        if len(wrong):
            raise DataError(
                f"{path}: label {table[wrong[0], column]} in record {first + wrong[0]} is outside 0 to {count - 1}; it "
                f"is damaged or not of {version.name}, take it again out of {version.download}"
            )


def class_names(version: Version, path: Path, raw: bytes) -> list[str]:
    """Return the classes' names in order from the content `raw` of the file `path`, one name on a line.

    Raises DataError if there are not as many as classes.
    """
    names = [line.strip() for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    if len(names) != version.classes:
        raise DataError(
            f"{path}: names {len(names)} classes where {version.name} has {version.classes}; write one name on a "
            f"line, or take it again out of {version.download}"
        )
    return names


def refuse_pickles(folder: Path) -> None:
    """Raise DataError if the folder holds the Python version: its files are pickles, and reading one may run code."""
    for version in (CIFAR10, CIFAR100):
        if all((folder / name).is_file() for name in version.python):
            raise DataError(
                f"{folder}: holds {version.name}'s Python version, whose files are pickles and are never read, since "
                f"a pickle may run any code; take the binary version, {version.download}"
            )
