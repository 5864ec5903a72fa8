"""What a loader takes its items from: arrays, a sequence of (image, label), or a stream that is only walked through.

    Arrays     x and y, of which a batch reads its rows alone: in memory, memory maps, h5py's data sets
    Items      anything with a length and places, whose items are pairs (image, label)
    Stream     what can only be walked through: a generator, or a function that makes one for each epoch

Images are bytes, which stand for value / 255, or floats; labels are class numbers, names, or numbers to be predicted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
from numpy.random import Generator

from foveal.data.dataset import Labels
from foveal.data.decoding.images import opaque_pixels
from foveal.errors import ArgumentError, DataError
from foveal.kinds import Around, as_float32, inside_of, shown, takes
from foveal.strides import Ndarray

# An array, or a tuple or dict of arrays, also nested.
Nest = Any
Channels = Literal["auto", "first", "last"]
# Images have 1 or 3 channels, and sides of more pixels than that.
CHANNELS, SMALLEST_SIDE = (1, 3), 4
# A label by name stands for its place among the classes.
Classes = tuple[str, ...] | None


@dataclass(frozen=True)
class Options:
    """How items become a batch; `Loader` explains each."""

    channels: Channels = "auto"
    classes: Classes = None
    transform: Callable[..., Any] | None = None
    collate: Callable[[list[Any]], Any] | None = None


@dataclass(frozen=True)
class Elsewhere:
    """A batch that is not read here, but by another rank."""

    items: int


def every(number: int) -> bool:
    """Return True."""
    return True


@dataclass(frozen=True)
class Plan:
    """One walk through a source."""

    epoch: int
    #: The places of the items in the order in which they are read; of a stream, none.
    order: Labels
    #: Items of a batch; None where every item is a batch already.
    size: int | None
    #: True to leave out a batch of fewer items at the end.
    drop_last: bool
    #: Random numbers for the transform of an item, by its place.
    generator: Callable[[int], Generator]
    #: Says of a batch, by its number, whether it is read here; of all others the number of items is known, and no more.
    own: Callable[[int], bool] = every

    def chunks(self) -> Iterator[Labels | Elsewhere]:
        """Yield the places of one batch after the other."""
        size = self.size or 1
        for number, start in enumerate(range(0, len(self.order), size)):
            rows = self.order[start : start + size]
            if len(rows) == size or not self.drop_last:
                yield rows if self.own(number) else Elsewhere(len(rows))


class Source(Protocol):
    """What a loader asks of where its items come from."""

    #: The number of items; None where it is not known.
    count: int | None
    #: Names of the classes, where labels are names.
    classes: Classes

    def batches(self, plan: Plan) -> Iterator[tuple[Nest, Nest] | Elsewhere]:
        """Yield x and y of one batch after the other."""


def mapped(function: Callable[[Any], Any], nest: Nest, around: Around = ()) -> Nest:
    """Return the nest with the function applied to each of its arrays. around: what the nest lies in."""
    if isinstance(nest, tuple):
        around = inside_of(nest, around)
        return tuple(mapped(function, part, around) for part in nest)
    if isinstance(nest, Mapping):
        around = inside_of(nest, around)
        return {name: mapped(function, part, around) for name, part in nest.items()}
    return function(nest)


def leaves(nest: Nest) -> list[Any]:
    """Return the arrays of a nest, in order."""
    found: list[Any] = []
    mapped(found.append, nest)
    return found


def is_array(value: object) -> bool:
    """True for NumPy's arrays and what is read like them, such as h5py's data sets."""
    return all(hasattr(value, name) for name in ("dtype", "__getitem__")) and getattr(value, "shape", ()) != ()


def is_nest(value: object) -> bool:
    """True for an array, and for a tuple or dict of arrays."""
    parts = value if isinstance(value, tuple) else value.values() if isinstance(value, Mapping) else ()
    return is_array(value) or (bool(parts) and all(map(is_nest, parts)))


def source_of(data: Any, y: Any, options: Options) -> Source:
    """Return the source that `data`, or `data` and `y`, are. Raises DataError and ArgumentError for what is none."""
    if y is None and isinstance(data, tuple) and len(data) == 2:
        first, second = data
        # Two lists are images and labels; two tuples are two items.
        lists = isinstance(first, list) and is_array(second), isinstance(second, list) and isinstance(first, list)
        if any(lists) or (is_nest(first) and (is_nest(second) or isinstance(second, list))):
            data, y = first, second
    if y is not None:
        y = list(y) if isinstance(y, tuple) and not is_nest(y) else y
        if is_nest(data) and options.transform is None and options.collate is None:
            return Arrays(data, y, options)
        return Items(Pairs(data, y), options)
    if is_nest(data):
        raise ArgumentError(
            f"Loader: {shown(data)} has no labels; give Loader((x, y)) or Loader(x, y), and Loader(((a, b), y)) for"
            " several inputs"
        )
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, str | bytes | Mapping):
        return Items(data, options)
    if callable(data) and not isinstance(data, type):
        return Stream(data, options)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping | set | frozenset):
        return Stream(data, options)
    raise ArgumentError(
        f"Loader: data is {shown(data)}; it takes (x, y), a sequence of (image, label), or a function that makes a"
        " generator of them"
    )


class Pairs:
    """Images and labels that lie apart, as a sequence of (image, label)."""

    def __init__(self, x: Any, y: Any) -> None:
        for value in (x, y):
            if not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
                raise DataError(f"Loader: {shown(value)} is no array and no sequence; give images and their labels")
        check_lengths(len(x), len(y))
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.x[i], self.y[i]


class Arrays:
    """x and y, each an array [n, ...] or a nest of such. Nothing but the rows of a batch is read."""

    def __init__(self, x: Nest, y: Nest, options: Options) -> None:
        self.options = options
        self.x, self.y = mapped(in_memory, x), mapped(in_memory, y)
        arrays = [*leaves(self.x), *leaves(self.y)]
        if odd := [array for array in arrays if not is_array(array)]:
            raise DataError(f"Loader: {shown(odd[0])} is no array of images or labels")
        lengths = [len(array) for array in arrays]
        self.count: int | None = lengths[0]
        for length in lengths[1:]:
            check_lengths(lengths[0], length)
        for array in leaves(self.x):
            check_images(array.dtype, "x")
        self.classes = options.classes
        if is_array(self.y) and self.y.dtype.kind in "UO" and self.classes is None:
            self.classes = names_in(self.y)
        # What labels cannot be is found out now, by the first ones.
        mapped(partial(self.labels, np.arange(1)), self.y)

    def batches(self, plan: Plan) -> Iterator[tuple[Nest, Nest] | Elsewhere]:
        for read in self.reads(plan):
            yield read()

    def reads(self, plan: Plan) -> Iterator[Callable[[], tuple[Nest, Nest] | Elsewhere]]:
        """Yield functions that return one batch after the other; they may be called in any order, by any thread."""
        for rows in plan.chunks():
            yield partial(self.read, rows)

    def read(self, rows: Labels | Elsewhere) -> tuple[Nest, Nest] | Elsewhere:
        """Return x and y of these rows."""
        if isinstance(rows, Elsewhere):
            return rows
        return mapped(partial(self.images, rows), self.x), mapped(partial(self.labels, rows), self.y)

    def images(self, rows: Labels, array: Any) -> Ndarray:
        return channels_first(taken(array, rows), self.options.channels)

    def labels(self, rows: Labels, array: Any) -> Ndarray:
        return targets(taken(array, rows), self.classes, rows)


class Items:
    """A sequence of pairs (image, label), such as a list or a torch Dataset. Items are read when they are needed."""

    def __init__(self, items: Any, options: Options) -> None:
        self.items, self.options, self.classes = items, options, options.classes
        self.count: int | None = len(items)
        # What all items have to be like: that of the first one that was read, with its place.
        self.pattern: Pattern | None = None
        if self.classes is None and isinstance(items, Pairs) and isinstance(items.y, list | np.ndarray):
            self.classes = names_in(items.y)
        if self.classes is None and isinstance(items, list | tuple):
            self.classes = names_in([item[1] for item in items if isinstance(item, tuple | list) and len(item) == 2])

    def batches(self, plan: Plan) -> Iterator[tuple[Nest, Nest] | Elsewhere]:
        for rows in plan.chunks():
            if isinstance(rows, Elsewhere):
                yield rows
            else:
                yield self.batch([(int(i), self.items[int(i)]) for i in rows], plan)

    def batch(self, items: list[tuple[int, Any]], plan: Plan) -> tuple[Nest, Nest]:
        """Return x and y of a batch, given its items with their places."""
        pairs = [self.transformed(i, item, plan) for i, item in items]
        places = np.array([i for i, _ in items])
        label = partial(targets_of, self.classes, places)
        if plan.size is None or self.options.collate is not None:
            made = pairs[0] if self.options.collate is None else self.options.collate(pairs)
            if not isinstance(made, tuple | list) or len(made) != 2:
                raise DataError(f"collate returned {shown(made)}, it has to return (x, y) of a batch")
            return mapped(partial(batch_array, self.options.channels), made[0]), mapped(label, made[1])
        images, labels = [], []
        for i, (image, y) in zip(places.tolist(), pairs, strict=True):
            images.append(mapped(partial(image_array, self.options.channels, i), image))
            labels.append(mapped(np.asarray, y))
            pattern = Pattern.of(i, images[-1], labels[-1])
            self.pattern = self.pattern or pattern
            self.pattern.check(pattern)
        return stacked(images), mapped(label, stacked(labels))

    def pair(self, i: int, item: Any) -> tuple[Any, Any]:
        """Return an item as image and label. Raises DataError for what is no pair."""
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"item {i} is {shown(item)}; every item has to be a pair (image, label)")
        return item[0], item[1]

    def transformed(self, i: int, item: Any, plan: Plan) -> Any:
        """Return an item as a pair, its image transformed."""
        transform = self.options.transform
        if transform is None and self.options.collate is not None:
            return item
        image, label = self.pair(i, item)
        if transform is None:
            return image, label
        return (transform(image) if takes([0], transform) else transform(image, plan.generator(i))), label


class Stream:
    """Pairs (image, label) that come one after the other: a generator, another iterable, or a function that makes one.

    What is an iterator itself can be walked through once; a function, and an iterable that makes a new iterator each
    time, as often as there are epochs. The function is called without arguments, or with the number of the epoch.
    """

    def __init__(self, data: Any, options: Options) -> None:
        self.data, self.options, self.classes = data, options, options.classes
        self.count: int | None = None
        self.items = Items([], options)
        self.used = False

    def start(self, epoch: int) -> Iterator[Any]:
        """Return the items of an epoch. Raises DataError for a generator that is used up."""
        if callable(self.data):
            made = self.data() if takes([], self.data) else self.data(epoch)
            if not isinstance(made, Iterable) or isinstance(made, str | bytes | Mapping):
                raise DataError(f"the function returned {shown(made)}; it has to return a generator of (image, label)")
            return iter(made)
        items = iter(self.data)
        if items is self.data:
            if self.used:
                raise DataError(
                    "the generator is used up after one epoch: give the function that makes it, Loader(make) in place"
                    " of Loader(make()), or a sequence"
                )
            self.used = True
        return items

    def batches(self, plan: Plan) -> Iterator[tuple[Nest, Nest] | Elsewhere]:
        items, size, number = enumerate(self.start(plan.epoch)), plan.size or 1, 0
        while batch := list(islice(items, size)):
            if len(batch) == size or not plan.drop_last:
                yield self.items.batch(batch, plan) if plan.own(number) else Elsewhere(len(batch))
                number += 1
        if not number:
            raise DataError(f"the generator gave no batch of {size} items; give more, or a smaller batch_size")


@dataclass(frozen=True)
class Pattern:
    """What the items of a batch have in common: shapes of images and labels, and whether labels are numbers."""

    place: int
    images: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    bytes: tuple[bool, ...]

    @classmethod
    def of(cls, place: int, image: Nest, label: Nest) -> Pattern:
        x, y = leaves(image), leaves(label)
        shapes = tuple(a.shape for a in x), tuple(a.shape for a in y)
        kinds = tuple("name" if a.dtype.kind in "UO" else "number" if a.dtype.kind in "iub" else "float" for a in y)
        return cls(place, *shapes, kinds, tuple(a.dtype == np.uint8 for a in x))

    def check(self, other: Pattern) -> None:
        """Raise DataError, which names the item, unless the other one is alike."""
        ways = (
            ("images", "the image has shape", "resize or crop them with transform="),
            ("bytes", "the image is of bytes, which stand for value / 255:", "give bytes or floats, not both"),
            ("labels", "the label has shape", "make them equal"),
            ("kinds", "the label is a", "give numbers, or names, or floats"),
        )
        for name, words, way_out in ways:
            own, its = getattr(self, name), getattr(other, name)
            if own != its:
                raise DataError(
                    f"item {other.place}: {words} {in_words(its)}, that of item {self.place} {in_words(own)}; all items"
                    f" have to be alike: {way_out}"
                )


def in_words(values: tuple[Any, ...]) -> str:
    """Return shapes or kinds for a message: of one array without brackets around it."""
    shown_values = [list(value) if isinstance(value, tuple) else value for value in values]
    return str(shown_values[0] if len(shown_values) == 1 else shown_values)


def names_in(labels: Iterable[Any]) -> Classes:
    """Return the names that labels are, in alphabetical order; None if they are no names."""
    found = list(labels)
    return tuple(map(str, sorted(set(found)))) if found and all(isinstance(name, str) for name in found) else None


def check_lengths(images: int, labels: int) -> None:
    """Raise DataError unless there are images, and a label for each."""
    if images != labels or images == 0:
        raise DataError(f"{images} images and {labels} labels: one label per image is needed")


def check_images(dtype: Any, what: str) -> None:
    """Raise DataError for images that are neither bytes nor floats."""
    if dtype != np.uint8 and np.dtype(dtype).kind != "f":
        raise DataError(f"{what} is {dtype}; store uint8 (0 to 255) or floats (such as x.astype(np.float32))")


def in_memory(array: Any) -> Any:
    """Return an array as it is read: a list or a torch tensor as NumPy's; memory maps and h5py's data sets unread."""
    elsewhere = hasattr(array, "numpy") or hasattr(array, "to_numpy")
    return array if is_array(array) and not elsewhere else np.asarray(array)


def taken(array: Any, rows: Labels) -> Ndarray:
    """Return these rows of an array, which alone are read."""
    if isinstance(array, np.ndarray):
        return np.asarray(array[rows])
    # h5py reads rows in rising order only.
    order = np.argsort(rows)
    read = np.asarray(array[rows[order]])
    result = np.empty_like(read)
    result[order] = read
    return result


def channels_first(x: Ndarray, channels: Channels) -> Ndarray:
    """Return images [n, H, W], [n, C, H, W] or [n, H, W, C] as a view [n, C, H, W], float32 or bytes.

    channels: "first" leaves everything as it is, "last" moves the last axis. "auto" adds the axis that [n, H, W] lacks,
    and takes four axes as [n, H, W, C] if only the last one can be the channels. Other ranks stay as they are.
    """
    check_images(x.dtype, "x")
    x = x if x.dtype == np.uint8 else as_float32(x, "x")
    if channels == "last" and x.ndim > 2:
        return np.moveaxis(x, -1, 1)
    if channels == "auto" and x.ndim == 3:
        return x[:, None]
    if channels == "auto" and x.ndim == 4 and x.shape[3] in CHANNELS and min(x.shape[1:3]) >= SMALLEST_SIDE:
        return np.moveaxis(x, 3, 1)
    return x


def batch_array(channels: Channels, x: Any) -> Ndarray:
    """Return images that are a batch already."""
    return channels_first(np.asarray(x), channels)


def image_array(channels: Channels, place: int, image: Any) -> Ndarray:
    """Return one image, [C, H, W] of bytes or float32: a PIL image, or an array [H, W], [H, W, C] or [C, H, W]."""
    if isinstance(image, str | bytes) or hasattr(image, "__fspath__"):
        raise DataError(
            f"item {place}: the image is {shown(image)}; read files with transform=lambda path: foveal.data.read_image("
            "path, 3, 32, 32)"
        )
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        # Rows of pixels, the channels last where there are three.
        pixels = opaque_pixels(image, f"item {place}")
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    try:
        array = np.asarray(image)
    except ValueError:
        raise DataError(f"item {place}: {shown(image)} is no image; give an array or a PIL image") from None
    if array.dtype.kind not in "fiub":
        raise DataError(f"item {place}: {shown(image)} is no image; give an array or a PIL image")
    check_images(array.dtype, f"item {place}: the image")
    return channels_first(array[None], channels)[0]


def stacked(nests: Sequence[Nest]) -> Nest:
    """Return one nest of arrays [n, ...], of n nests of arrays [...]."""
    first = nests[0]
    if isinstance(first, tuple):
        return tuple(stacked([nest[i] for nest in nests]) for i in range(len(first)))
    if isinstance(first, Mapping):
        return {name: stacked([nest[name] for nest in nests]) for name in first}
    return np.stack(nests)


def targets_of(classes: Classes, places: Labels, y: Any) -> Ndarray:
    """`targets` of anything that is an array."""
    return targets(np.asarray(y), classes, places)


def targets(y: Ndarray, classes: Classes, places: Labels) -> Ndarray:
    """Return labels as class numbers, int64; numbers to be predicted as float32. places: of the labels, for messages.

    Raises DataError for names without `classes`, and for labels that are none of them.
    """
    if y.dtype.kind == "f":
        return as_float32(y, "y")
    if y.dtype.kind in "iub":
        wrong = (y < 0) | (y >= len(classes)) if classes is not None and y.ndim == 1 else np.zeros(0, bool)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise DataError(f"label {y[at]} at index {places[at]} is none of the {len(classes or ())} classes")
        return y.astype(np.int64)
    if y.dtype.kind not in "UO" or y.ndim != 1:
        raise DataError(f"labels are {shown(y)}; give class numbers, names, or floats for numbers to be predicted")
    if classes is None:
        raise DataError(
            f"the label at index {places[0]} is {shown(y[0])}, a name; say which classes there are, in the order of"
            " their numbers: classes=[...]"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [i for i, name in enumerate(y) if name not in numbers]
    if unknown:
        raise DataError(f"label {shown(y[unknown[0]])} at index {places[unknown[0]]} is none of the classes {classes}")
    return np.array([numbers[name] for name in y], np.int64)
