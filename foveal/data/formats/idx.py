"""IDX files, the format of MNIST (LeCun, Cortes and Burges) and of EMNIST (Cohen, Afshar, Tapson and van Schaik 2017).

A file is a magic number, the length of each axis, both in 32 bits and big-endian, and the bytes in C order. The magic
number is 08 for unsigned bytes, then the number of axes.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveal.data.dataset import Dataset, from_arrays
from foveal.data.files import MAX_RATIO, check_size, fill, opened, read_limited
from foveal.errors import DataError

IMAGE_MAGIC, LABEL_MAGIC = 0x0803, 0x0801
_MAGICS = (IMAGE_MAGIC, LABEL_MAGIC, IMAGE_MAGIC, LABEL_MAGIC)
# How far a file whose header is wrong is read to see what is wrong with it.
_TORN_BYTES = 1 << 20
# A file of class names has a line of a few digits for each of some ten classes.
_NAMES_BYTES = 1 << 16


def mnist(name: str, files: list[Path]) -> Dataset:
    """The four IDX files of MNIST: training images and labels, then those for testing."""
    arrays = [read(path, magic) for path, magic in zip(files, _MAGICS, strict=True)]
    return from_arrays(name, *arrays, sources=[str(path) for path in files])


def emnist(name: str, files: list[Path], names: Path | None) -> Dataset:
    """The four IDX files of one of EMNIST's splits, its images turned as they are read; names: the file of classes.

    EMNIST stores images column by column: as they lie, letters are mirrored at their diagonal.
    """
    x_train, y_train, x_test, y_test = (read(path, magic) for path, magic in zip(files, _MAGICS, strict=True))
    images, sources = (x_train.swapaxes(1, 2), x_test.swapaxes(1, 2)), [str(path) for path in files]
    if names is None:
        return from_arrays(name, images[0], y_train, images[1], y_test, sources=sources)
    first, classes = _characters(names)
    # A label below the first becomes a negative one, which is reported.
    labels = [y.astype(np.int64) - first for y in (y_train, y_test)]
    return from_arrays(name, images[0], labels[0], images[1], labels[1], classes=classes, sources=sources)


def _characters(path: Path) -> tuple[int, list[str]]:
    """The lowest label and the character of each label, from EMNIST's mapping of labels to character codes.

    A line holds a label and the codes of its characters, such as capital and small letter; the first one is the name.
    """
    text = read_limited(path, _NAMES_BYTES, "the names of some classes").decode("ascii", "replace")
    try:
        rows = sorted((int(label), chr(int(code))) for label, code, *_ in map(str.split, text.splitlines()))
        labels = [label for label, _ in rows]
        if not rows or labels != list(range(labels[0], labels[0] + len(rows))):
            raise ValueError("labels are missing")
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: holds no label and character code on each line ({error}); fetch it again, or remove it to number "
            "the classes"
        ) from None
    return labels[0], [character for _, character in rows]


def read(path: Path, magic: int) -> NDArray[np.uint8]:
    """The bytes of an IDX file: images, uint8 [n, H, W], or labels, uint8 [n], by its magic number."""
    # The magic number ends with the number of axes.
    rank = magic & 0xFF
    size = 4 + 4 * rank
    with opened(path) as stream:
        header = stream.read(size)
        if len(header) < size:
            raise DataError(
                f"{path}: truncated, {len(header)} bytes where the IDX header alone has {size}; fetch the file again"
            )
        found, *shape = struct.unpack(f">{1 + rank}I", header)
        if found != magic:
            # If a gzip file is torn, that shows further on, and is what to say.
            stream.read(_TORN_BYTES)
            raise DataError(
                f"{path}: magic number 0x{found:08x} where 0x{magic:08x} is expected: not an IDX file "
                f"of {'images' if rank == 3 else 'labels'} as bytes"
            )
        # How much to unpack is known now.
        check_size(math.prod(shape), path.stat().st_size * MAX_RATIO, path)
        content = np.empty(math.prod(shape), np.uint8)
        count = fill(stream, content)
        # One byte more, which also makes gzip check its sum.
        more = stream.read(1)
    if count < len(content) or more:
        holds = f"{count + 1} or more" if more else f"{count}"
        raise DataError(
            f"{path}: the header says {' x '.join(map(str, shape))} = {len(content)} bytes, the file holds {holds};"
            " it is damaged or no IDX file, fetch it again"
        )
    return content.reshape(shape)
