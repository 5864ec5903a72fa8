"""ImageArray: image files as an array, of which rows are decoded when they are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from foveal.data.decoding.images import MISSING, ImageError, without_warnings
from foveal.data.decoding.members import file_of
from foveal.data.decoding.preprocessing import Preprocessing
from foveal.data.files import check_size
from foveal.data.threads import in_order
from foveal.errors import PlaceError

Bytes: TypeAlias = NDArray[np.uint8]
#: Bytes of a file, and when it was changed, in nanoseconds.
Stamp = tuple[int, int]


class ImageArray:
    """Image files as an array uint8 [n, C, H, W], of which nothing is held in memory.

        x = ImageArray(paths, preprocessing)
        x[[3, 1]]  # decodes two files, in threads: uint8 [2, C, H, W]

    Rows are taken by numbers, slices, lists of numbers, and masks. stamps: sizes and times of the files, which are
    looked at before each is decoded: a file that has changed or is gone is an ImageError that names it.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, paths: Sequence[str], preprocessing: Preprocessing, stamps: Sequence[Stamp] | None = None
    ) -> None:
        self.paths, self.preprocessing, self.stamps = list(paths), preprocessing, stamps
        self.shape = (len(self.paths), preprocessing.channels, *preprocessing.size)
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"ImageArray of {list(self.shape)}: {len(self)} files, decoded when they are read"

    def of_rows(self, rows: Iterable[int]) -> ImageArray:
        """Return the images of these rows, as an array that decodes them when they are read too."""
        chosen = list(rows)
        stamps = None if self.stamps is None else [self.stamps[row] for row in chosen]
        return ImageArray([self.paths[row] for row in chosen], self.preprocessing, stamps)

    def decoded(self, row: int) -> Bytes:
        """Return one image, [C, H, W]. Raises ImageError that names the file."""
        path = self.paths[row]
        if self.stamps is not None:
            try:
                status = os.stat(file_of(path))
            except OSError as error:
                text = f"is gone since it was listed ({error.strerror}); put it back, or start again without it"
                raise ImageError(path, MISSING, text) from None
            if (status.st_size, status.st_mtime_ns) != tuple(self.stamps[row]):
                raise ImageError(path, "changed", "has changed since it was listed; start again to take it as it is")
        return self.preprocessing.read(path)

    def __getitem__(self, rows: Any) -> Bytes:
        if isinstance(rows, int | np.integer):
            if not -len(self) <= rows < len(self):
                raise PlaceError(f"ImageArray: there is no row {rows}, only {len(self)}")
            return self.decoded(int(rows))
        if isinstance(rows, tuple):
            return self[rows[0]][(slice(None), *rows[1:])]
        # NumPy's rules for what numbers, masks and slices mean.
        places = np.arange(len(self))[rows]
        check_size(len(places) * self.size // max(1, len(self)), np.inf, "the images")
        result = np.empty((len(places), *self.shape[1:]), np.uint8)
        # One image at a time is little for a thread.
        for i, image in enumerate(
            in_order(self.decoded, map(int, places)) if len(places) > 1 else map(self.decoded, places)
        ):
            result[i] = image
        return result

    def __iter__(self) -> Iterator[Bytes]:
        return in_order(self.decoded, range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all images. Raises DataError where memory is too small for them."""
        return self[:].astype(dtype or self.dtype, copy=False)


def decoded_rows(array: ImageArray, rows: Iterable[int]) -> Iterator[Bytes | ImageError]:
    """Yield the image of each row in order, or what is wrong with its file; threads decode them."""

    def attempt(row: int) -> Bytes | ImageError:
        try:
            return array.decoded(row)
        except ImageError as error:
            return error

    # Once, and not for each image.
    with without_warnings():
        yield from in_order(attempt, rows)
