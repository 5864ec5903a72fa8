"""ImageFiles: the image files of a data set, listed and divided into parts before any of them is decoded.

`scan` lists them and reads their headers, so that the size of the images and the network can be chosen from what there
is; `ImageFiles.dataset` decodes them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from foveal.data.dataset import Dataset, Labels, range_of_bytes
from foveal.data.decoding.image_array import ImageArray
from foveal.data.decoding.images import ImageError
from foveal.data.decoding.members import Member
from foveal.data.decoding.pixels import WHITE, Colour
from foveal.data.decoding.preprocessing import Preprocessing
from foveal.data.decoding.storage import STREAM, Storage, choose, stored
from foveal.data.scanning.listing import TEST, TRAIN, VALIDATION, Problem
from foveal.data.statistics import counted, statistics_of_counts
from foveal.data.threads import Bar
from foveal.errors import DataError, warn

if TYPE_CHECKING:
    # An array of texts, which a check of a call would take for a mistake.
    Parts: TypeAlias = NDArray[np.str_]

#: Of problems: files that are left out because of what is in them; `strict` stops at these.
REFUSED = ("unreadable", "truncated", "hostile", "missing")
# Bytes of training images that mean and standard deviation are computed from.
_SAMPLE_BYTES = 256 << 20
# Bytes of these that are read at a time.
_BLOCK_BYTES = 8 << 20
# Names of files that a line lists.
_LISTED = 3
# Sides of images where none is given.
_LARGEST_SIDE, _STEP = 128, 32


@dataclass(frozen=True, eq=False, repr=False)
class ImageFiles:
    """The image files of a data set: their paths, classes and parts, and what their headers say.

    files = foveal.data.scan("photos")
    print(files)  # how many there are, and what is left out
    dataset = files.dataset((96, 96))
    """

    #: The name of the data set.
    name: str
    #: The path of each image.
    paths: list[str]
    #: The class of each image, int64 [n], from 0 to K - 1.
    labels: Labels
    #: The names of the K classes.
    classes: tuple[str, ...]
    #: The part of each image [n]: "train", "validation" or "test".
    parts: Parts
    #: Width and height of each image, int64 [n, 2], upright.
    sizes: NDArray[np.int64]
    #: 1 if all images are grey, else 3.
    channels: int
    #: Files that are left out, and what else is to be said of a file. Decoding adds those that it cannot read.
    problems: list[Problem]
    #: Bytes of each file, and when it was changed, in nanoseconds, int64 [n, 2].
    stamps: NDArray[np.int64]
    #: How the parts came about, in words.
    division: str = ""
    #: The colour under what is transparent.
    background: Colour = WHITE
    #: True to raise an error for a file that cannot be decoded; else it is left out and said.
    strict: bool = False
    #: What the paths lie below: the folder, or that of the table.
    folder: str = ""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return what a person should know: what there is, how it is divided, and what is left out, a line each."""
        counts = ", ".join(f"{int((self.parts == part).sum()):,} {part}" for part in (TRAIN, VALIDATION, TEST))
        found = [f"{self.name}: {len(self):,} images in {len(self.classes)} classes; {counts} ({self.division})"]
        kinds = Counter(problem.kind for problem in self.problems)
        for kind, count in sorted(kinds.items()):
            names = [os.path.basename(p.path) for p in islice((p for p in self.problems if p.kind == kind), _LISTED)]
            more = ", ..." if count > _LISTED else ""
            words = said_of(kind)
            found.append(f"{words}: {count:,} ({', '.join(names)}{more})")
        return found

    def rows(self, part: str) -> Labels:
        """Return the places of the images of a part."""
        return np.flatnonzero(self.parts == part)

    def default_size(self) -> tuple[int, int]:
        """Return rows and columns for images where none are given.

        That is the size of the images if all have one, up to 128 pixels a side; else squares of the median of the
        shorter sides, a multiple of 32 from 32 to 128.
        """
        widest = self.sizes.max(0)
        if (self.sizes == widest).all() and widest.max() <= _LARGEST_SIDE:
            return int(widest[1]), int(widest[0])
        median = float(np.median(self.sizes.min(1)))
        side = min(max(int(median) // _STEP * _STEP, _STEP), _LARGEST_SIDE)
        return side, side

    def storage(
        self,
        size: tuple[int, int],
        channels: int | None = None,
        *,
        enlarge: float = 1.0,
        memory_limit: float | None = None,
        data_cache: str | Path = "auto",
    ) -> Storage:
        """Return where `dataset` would keep the images: `print(files.storage((96, 96)).text)`. Nothing is decoded."""
        pixels = [
            int(np.prod(self.stored_size(size, part, enlarge), dtype=np.int64)) * len(self.rows(part))
            for part in (TRAIN, VALIDATION, TEST)
        ]
        work = int(self.sizes.prod(1).sum())
        return choose(sum(pixels) * (channels or self.channels), work, memory_limit, data_cache, len(self))

    def stored_size(self, size: tuple[int, int], part: str, enlarge: float) -> tuple[int, int]:
        """Return rows and columns that images of a part are kept at."""
        return (round(size[0] * enlarge), round(size[1] * enlarge)) if part == TRAIN else size

    def dataset(
        self,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        fit: str = "stretch",
        *,
        crop: float = 1.0,
        interpolation: str = "lanczos",
        enlarge: float = 1.0,
        memory_limit: float | None = None,
        data_cache: str | Path = "auto",
        tell: Callable[[str], object] | None = None,
        quiet: bool = False,
    ) -> Dataset:
        """Return the images, decoded by threads at that size (rows, columns), as a Dataset.

        size: `default_size()` if None. channels: 1 for grey, 3 for RGB; what the files have if None. fit, crop,
        interpolation: as in `data.Preprocessing`. enlarge: how many times as large training images are kept, such as
        1.15, for augmentations that crop. Mean and standard deviation are those of the training images, or, of more
        than 256 MiB, of as many as that, taken at equal distances.

        memory_limit: bytes of decoded images that may be held in memory; a quarter of the machine's memory if None.
        data_cache: "auto" for the cache folder, "off", or a folder: where a file of decoded images is kept if they take
        more, or took a second to decode (`storage`). Without such a file larger sets are decoded once to find damaged
        files, and anew in every epoch, by an array that is read like NumPy's. No bit of a training depends on that.

        Files that cannot be decoded are left out, added to `problems` and said, or raise DataError if `strict`. tell: a
        function that is called with what is to be said, a line each; without it left-out files are a FovealWarning.
        quiet: True for no bar. Raises DataError if a part, or a class of the training part, has no image left.
        """
        size = self.default_size() if size is None else size
        given = Preprocessing(
            channels or self.channels, size, fit, crop, interpolation=interpolation, background=self.background
        )
        storage = self.storage(size, given.channels, enlarge=enlarge, memory_limit=memory_limit, data_cache=data_cache)
        self.check_order(storage)
        if tell is not None:
            tell(f"images of {given.channels}x{size[0]}x{size[1]}: {storage.text}")
        images: dict[str, Any] = {}
        kept: dict[str, Labels] = {}
        before = len(self.problems)
        with Bar("decoding", len(self), "images", quiet) as bar:
            for part in (TRAIN, VALIDATION, TEST):
                rows = self.rows(part)
                # Training images may be kept larger than the network takes them, so that crops have a choice.
                read = replace(given, size=self.stored_size(size, part, enlarge))
                stamps = [(int(size), int(time)) for size, time in self.stamps[rows]]
                array = ImageArray([self.paths[row] for row in rows], read, stamps)

                def refused(row: int, error: ImageError, rows: Labels = rows) -> None:
                    self.refuse(self.paths[rows[row]], error)

                images[part], left = stored(array, storage, refused, bar.advance)
                kept[part] = rows[np.asarray(left, np.int64)]
        self.say(self.problems[before:], tell)
        self.check(kept)
        return self.made(images, kept, given)

    def made(self, images: dict[str, Any], kept: dict[str, Labels], given: Preprocessing) -> Dataset:
        """Return the Dataset of the images of each part, which are those of `kept`."""
        train = images[TRAIN]
        # At equal distances, the same ones wherever they are kept; never many in memory beside those that are kept.
        each = train.size // len(train)
        count = min(len(train), max(1, _SAMPLE_BYTES // each))
        rows, block = np.arange(count) * len(train) // count, max(1, _BLOCK_BYTES // each)
        counts = sum(
            (counted(train[rows[i : i + block]]) for i in range(0, count, block)), np.zeros((1, 256), np.int64)
        )
        mean, std = statistics_of_counts(counts)
        limits = range_of_bytes(float(np.flatnonzero(counts.sum(0))[-1]))
        validates = len(kept[VALIDATION]) > 0
        return Dataset(
            name=self.name,
            images_train=train,
            images_test=images[TEST],
            y_train=self.labels[kept[TRAIN]],
            y_test=self.labels[kept[TEST]],
            classes=self.classes,
            mean=mean,
            std=std,
            value_range=limits,
            images_validation=images[VALIDATION] if validates else None,
            y_validation=self.labels[kept[VALIDATION]] if validates else None,
            files={part: [self.paths[row] for row in rows] for part, rows in kept.items()},
            preprocessing=replace(given, mean=mean, std=std, value_range=limits),
            folder=self.folder or None,
        )

    def check_order(self, storage: Storage) -> None:
        """Raise DataError where images that stream in a random order are read fast in their own order alone."""
        if storage.kind == STREAM and (slow := [p for p in self.paths if isinstance(p, Member) and not p.in_any_order]):
            raise DataError(
                f"{slow[0].file}: its images cannot be decoded anew in each epoch, since each is read with many others"
                f" ({storage.text}); give more memory, a cache on disk or smaller images, or write them as tar shards"
            )

    def refuse(self, path: str, error: ImageError) -> None:
        """Take note of a file that cannot be decoded; raise DataError if `strict`."""
        if self.strict:
            raise DataError(f"{error}; repair it or take it away, as strict is on") from None
        self.problems.append(Problem(path, error.kind, error.text))

    def say(self, problems: Sequence[Problem], tell: Callable[[str], object] | None) -> None:
        """Say which files are left out that were thought to be images."""
        for problem in problems:
            line = f"{problem.path}: {problem.text}; left out"
            if tell is not None:
                tell(line)
        if problems and tell is None:
            first, count = problems[0], len(problems)
            more = f" and {count - 1:,} more files" if count > 1 else ""
            warn(f"{first.path}{more} left out: {first.text}; `foveal data check` tells of all")

    def check(self, kept: dict[str, Labels]) -> None:
        """Raise DataError unless there is an image to train on for each class, and one to test with."""
        counts = np.bincount(self.labels[kept[TRAIN]], minlength=len(self.classes))
        lacking = [self.classes[k] for k in np.flatnonzero(counts == 0)]
        if lacking:
            raise DataError(
                f"{self.name}: the class {lacking[0]!r} has no image to train on that can be read; add some, or take it"
                " away"
            )
        if not len(kept[TEST]):
            raise DataError(f"{self.name}: there is no image to test with; give more images, or a larger split")


def said_of(kind: str) -> str:
    """Return what is said of files with a kind of problem."""
    words = {
        "hidden": "left out, hidden or left by the system",
        "no image": "left out, no images",
        "no class": "left out, beside the folders of classes",
        "empty class": "left out, classes without images",
        "link": "left out, links that lead nowhere or back",
        "wrong extension": "read, with another extension than their format's",
        "scaled": "read, scaled from their own range as none of their values is defined to be white",
    }
    return words.get(kind, f"left out, {kind}")
