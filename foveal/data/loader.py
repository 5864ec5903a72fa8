"""Mini-batches in an order that depends on (seed, epoch) only, so that a run can be repeated.

Random numbers come from Philox, a counter-based generator (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
easy as 1, 2, 3", 2011): the key is (seed, stream), the counter holds epoch and batch, and no state is carried from one
batch to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import copy
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.random import Generator as Random
from numpy.random import Philox

from foveal.arguments import checked
from foveal.data.augment import Augment, Steps, combined
from foveal.data.dataset import Dataset, Floats, Images, Labels
from foveal.data.sources import (
    Arrays,
    Channels,
    Elsewhere,
    Nest,
    Options,
    Plan,
    Stream,
    every,
    leaves,
    mapped,
    source_of,
)
from foveal.data.statistics import Normalisation, scaled
from foveal.data.threads import in_order
from foveal.data.transforms.draws import Draws
from foveal.data.transforms.mixing import STREAM as MIX
from foveal.data.transforms.mixing import Mixing, mixing, one_hot
from foveal.errors import ArgumentError, DataError, ShapeError
from foveal.kinds import shown
from foveal.strides import Ndarray

# The streams of random numbers that this file draws from; 3 is that of images which are held out.
SHUFFLE, AUGMENT, TRANSFORM = 1, 2, 4
# The counter of the generator that holds the epoch has 64 bits.
LAST_EPOCH = 1 << 62
# A batch, x and y, or one that is not read here; and what reads it: None where there is no more.
Batch = tuple[Any, Any] | Elsewhere
Read = Callable[[], Batch | None]
# A batch is filled up with zeros to this many images at most.
LARGEST_FILLED = 1 << 16


class Loader:
    """Mini-batches of images and labels, an epoch after the other.

        for x, y in foveal.data.Loader((images, labels), batch_size=32, shuffle=True, drop_last=True):
            step(x, y)

    Each `for` walks through one epoch, the next one in another order, which follows from the seed and the number of the
    epoch alone; `set_epoch(i)` sets the number of the next one. x is float32 [n, C, H, W], y int64 [n]. `epoch(i)`
    returns the batches of one epoch, all of one shape. `len(loader)` is the number of batches.

    data: one of

    - images and labels, as (x, y) or as two arguments: arrays, memory maps and h5py's data sets, of which only the rows
      of a batch are ever read; lists; ((a, b), y) or ({"name": a}, y) for several inputs, and the same for targets;
    - a sequence of pairs (image, label): a list, a torch Dataset, anything with `len` and places from 0 on;
    - a generator of such pairs, for one epoch, or a function make() or make(epoch) that returns one, for any number;
    - a `Dataset`, whose training images are taken, with their mean and std unless others are given.

    Images: bytes, which stand for value / 255, or floats; PIL images; [H, W], [H, W, C] or [C, H, W] each. Labels:
    class numbers, names (`loader.classes` is then the names in order), or floats, which stay float32, as targets.

    batch_size: items per batch; None for items that are batches already. mean, std: per channel, for (x - mean) / std.
    drop_last: leave the images out that are left over after the last full batch; shuffling leaves out others in the
    next epoch. Without it the last batch is smaller, which is one more shape to compile.
    augment: a name of `data.augment.AUGMENTATIONS`, one of `data.transforms`, a function (x, rng) -> x of batches as
    floats before they are normalised, or a list of these. What a transform draws for an image follows from the seed,
    the epoch and the image's place in the data alone. mix: "mixup", "cutmix", "mixup+cutmix", or an object of
    `data.transforms`, which mixes the images of each batch; y is then float32 [n, K], the shares of the classes.
    transform: a function of one image, image -> image or (image, rng) -> image, before batches are made of them.
    collate: a function of a list of items that returns the batch, (x, y).
    classes: names of the classes, in order, where labels are names. channels: "first" or "last" says where the channels
    are where "auto" would be wrong: it takes [n, H, W] as grey images, and as [n, H, W, C] what has 1 or 3 of them at
    its end and 4 or more rows and columns. Signals [n, C, L] need "first". length: the number of items of a generator,
    where it is known, for `len` and for schedules. rows: the places of the items that are taken, where it is not all of
    them. prefetch: how many batches are made ahead. threads: how many threads make them; the items of arrays are read
    by all of them, those of sequences and generators by one. Neither changes a bit of a batch, and the threads end
    where the walk through an epoch does, also where it is left earlier.

    Raises DataError if no batch can be made of the data, for a mean or std that cannot be used, and with its number for
    an item that is no pair, or that has another shape than those before; ShapeError for a batch size below 1.
    """

    def __init__(
        self,
        data: Any,
        y: Any = None,
        batch_size: int | None = 32,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: str | Augment | Steps | Sequence[Any] | None = None,
        mix: str | Mixing | None = None,
        transform: Callable[..., Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        classes: Sequence[str] | None = None,
        channels: Channels = "auto",
        length: int | None = None,
        rows: Ndarray | None = None,
        prefetch: int = 0,
        threads: int = 1,
    ) -> None:
        if isinstance(data, Dataset):
            if y is not None:
                raise ArgumentError("Loader: a Dataset has its labels; leave y out, or give images and labels")
            data, y, mean, std, classes, channels = of_dataset(data, mean, std, classes)
        options = Options(channels, None if classes is None else tuple(map(str, classes)), transform, collate)
        # What is given is not copied.
        self.source = source_of(data, y, options)
        self.rows = None if rows is None else checked_rows(rows, self.source.count)
        known = self.source.count if self.rows is None else len(self.rows)
        self.count = known if length is None else length
        self.check_sizes(batch_size, drop_last, shuffle, length)
        if (mean is None) != (std is None):
            raise DataError("Loader: give both mean and std, or none of them")
        self.normalisation = None if mean is None or std is None else Normalisation(mean, std)
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        self.augment, self.mix = combined(augment), mixing(mix)
        self.mixed_classes = None if self.mix is None else self.count_classes(self.mix)
        if threads < 1 or prefetch < 0:
            raise ShapeError(f"Loader: threads is {threads} and prefetch {prefetch}; at least 1 and 0 are needed")
        self.prefetch, self.threads, self.next_epoch = prefetch, threads, 0

    def check_sizes(self, batch_size: int | None, drop_last: bool, shuffle: bool, length: int | None) -> None:
        """Raise DataError and ShapeError if no batch can be made of so many items."""
        streams, count = isinstance(self.source, Stream), self.count
        if length is not None and not streams:
            raise DataError(f"Loader: length is for generators; here there are {self.source.count} items")
        if shuffle and streams:
            raise DataError("Loader: a generator has an order of its own; shuffle in it, or give a sequence")
        if batch_size is None:
            if isinstance(self.source, Arrays):
                raise ShapeError("Loader: batch_size is None, and arrays are no batches; give a number")
            return
        if batch_size < 1:
            raise ShapeError(f"batch size {batch_size}: at least 1 is needed")
        if count is None:
            return
        if count < 1:
            raise DataError("0 images and 0 labels: one label per image is needed")
        # A batch that is larger than the set is filled up with zeros, to a bounded size.
        if batch_size > max(count, LARGEST_FILLED):
            raise ShapeError(f"batch size {batch_size}: there are only {count} images; choose {count} or less")
        if drop_last and batch_size > count:
            raise DataError(
                f"batch size {batch_size} is larger than the {count} training images: choose {count} or less"
            )

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their numbers; None for labels that are numbers."""
        return self.source.classes

    def __len__(self) -> int:
        """Batches per epoch. Raises ArgumentError for a generator without `length`."""
        if self.count is None:
            raise ArgumentError("Loader: how many batches a generator gives is not known; say length=, its items")
        full, rest = divmod(self.count, self.batch_size or 1)
        return full + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> Labels:
        """Return the order of the images in this epoch: indices, int64 [n]; [0] for a generator."""
        count = 0 if self.source.count is None else self.count or 0
        if not self.shuffle:
            return np.arange(count) if self.rows is None else self.rows
        # Raw random words are sorted, as NumPy guarantees that they never change; for `permutation` it does not.
        words = Philox(key=[self.seed, SHUFFLE], counter=[0, 0, 0, epoch]).random_raw(count)
        order = np.argsort(words, kind="stable")
        return order if self.rows is None else self.rows[order]

    @checked
    def set_epoch(self, epoch: int) -> None:
        """Let the next `for` walk through this epoch, counted from 0."""
        self.next_epoch = checked_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Return the batches of the next epoch; the last one may have fewer images."""
        epoch = self.next_epoch
        self.next_epoch += 1
        return self.batches(checked_epoch(epoch), self.order(epoch), fill=False)

    @checked
    def epoch(self, epoch: int, fill: bool = True, first: int = 0) -> Iterator[tuple[Any, Any]]:
        """Return the batches of an epoch: images, float32 [batch_size, C, H, W], and labels, int64 [m].

        m is batch_size but in the last batch, which is filled up with zeros: only the labels of the real images are
        given, so cut results to `len(labels)`. fill: False for a last batch of m images, as `for` gives it. first: the
        number of the batch to begin with; those before it are the same as ever, and of arrays and files none is read.
        """
        return self.batches(checked_epoch(epoch), self.order(epoch), fill, first)

    @checked
    def shares(self, epoch: int, shards: int, own: range, first: int = 0) -> Iterator[list[tuple[Any, Any]]]:
        """Yield a list for each batch of an epoch: those of its shards that are among `own`, images and labels.

        A batch is divided into so many shards of equal size, which are batches by themselves: what augmentation and
        mixing draw follows from the number of the shard, and no other ones are read, but for what a generator gives,
        which has to be walked through. A last batch may have fewer shards, and a smaller one at its end; its list may
        be empty. first: the number of the batch to begin with. Raises ShapeError unless the shards divide batch_size,
        and ArgumentError for a class that says by `epoch` what its batches are and has no `shares`.
        """
        if type(self).epoch is not Loader.epoch:
            raise ArgumentError(
                f"{type(self).__name__}: it has a method epoch of its own, whose batches are not known in shards: give"
                " it a method shares(epoch, shards, own, first) too, or let augment= or a function of the data do it"
            )
        size = self.batch_size
        if size is None or shards < 1 or size % shards:
            fitting = "" if size is None else f"; choose a batch size such as {-(-size // max(1, shards)) * shards}"
            raise ShapeError(f"Loader: batches of {size} images are not divided into {shards} equal shards{fitting}")
        part = copy(self)
        part.batch_size, part.prefetch = size // shards, self.prefetch * shards
        order = self.order(epoch)
        if self.drop_last:
            # Whole batches are left out, and not shards.
            order = order[: len(order) // size * size]
        return part.in_lists(checked_epoch(epoch), order, shards, own, first)

    def in_lists(
        self, epoch: int, order: Labels, shards: int, own: range, first: int
    ) -> Iterator[list[tuple[Any, Any]]]:
        """Yield `shares` of a loader whose batches are the shards."""
        found, number = list[tuple[Any, Any]](), 0
        with closing(self.parts(epoch, order, False, first * shards, lambda i: i % shards in own)) as parts:
            for number, part in enumerate(parts, 1):
                if not isinstance(part, Elsewhere):
                    found.append(part)
                if number % shards == 0:
                    yield found
                    found = []
        if number % shards and not self.drop_last:
            yield found

    def batches(self, epoch: int, order: Labels, fill: bool = True, first: int = 0) -> Iterator[tuple[Any, Any]]:
        """Yield the batches of an epoch whose images come in this order; fill: with zeros, up to batch_size."""
        with closing(self.parts(epoch, order, fill, first)) as found:
            for batch in found:
                assert not isinstance(batch, Elsewhere)
                yield batch

    def parts(
        self, epoch: int, order: Labels, fill: bool, first: int, own: Callable[[int], bool] = every
    ) -> Generator[Batch]:
        """Yield the same, of which those are read whose numbers are own."""

        def generator(place: int) -> Random:
            return Random(Philox(key=[self.seed, TRANSFORM], counter=[0, 0, place, epoch]))

        def made(numbered: tuple[int, Read]) -> Batch | None:
            """Return a batch as it is trained on, which may be read only now; None after the last one."""
            pair = numbered[1]()
            if pair is None or isinstance(pair, Elsewhere):
                return pair
            x, y = self.changed(*pair, epoch, numbered[0], order)
            return (mapped(partial(filled, rows=self.batch_size), x) if fill and self.batch_size else x), y

        plan = Plan(epoch, order, self.batch_size, self.drop_last, generator, own)
        items = first * (self.batch_size or 0)
        # What makes batches ends before what they are read by.
        with closing(self.reads(plan)) as reads:
            numbered = enumerate(islice(reads, first, None), first)
            ahead = self.prefetch and in_order(made, numbered, self.threads, self.prefetch)
            with closing(ahead or (made(pair) for pair in numbered)) as batches:
                for found in batches:
                    if found is None:
                        break
                    items += found.items if isinstance(found, Elsewhere) else len(leaves(found[1])[0])
                    yield found
        if self.source.count is None and self.count is not None and not self.drop_last and items != self.count:
            raise DataError(f"the generator gave {items} items, and length says {self.count}; correct it")

    def reads(self, plan: Plan) -> Generator[Read]:
        """Yield functions that return x and y of one batch after the other; what comes after the last returns None.

        Any thread may read rows of arrays, in any order. Sequences and generators are read in order, by one thread
        where batches are made ahead, since nothing is known of them.
        """
        if isinstance(self.source, Arrays):
            yield from self.source.reads(plan)
            return
        batches = self.source.batches(plan)
        if self.prefetch == 0:
            for pair in batches:
                yield partial(same, pair)
            return
        reader = ThreadPoolExecutor(1, "foveal-reader")
        try:
            while True:
                yield reader.submit(next, batches, None).result
        finally:
            reader.shutdown(wait=True, cancel_futures=True)

    def changed(self, x: Nest, y: Nest, epoch: int, batch: int, order: Labels) -> tuple[Nest, Nest]:
        """Return a batch as it is trained on: augmented, normalised and mixed. order: that of the epoch."""
        index = self.index(batch, len(leaves(x)[0]), order)
        found = self.prepared(x, epoch, batch, index)
        return (found, y) if self.mix is None else self.mixed(found, y, epoch, index[:1])

    def index(self, batch: int, images: int, order: Labels) -> Labels:
        """Return the places of a batch's images in the data, or in the order in which a generator gives them."""
        if self.batch_size is None:
            return (batch << 32) + np.arange(images)
        first = batch * self.batch_size
        return order[first : first + images] if self.source.count is not None else first + np.arange(images)

    def count_classes(self, mix: Mixing) -> int:
        """Return how many classes the labels are of, which are mixed. Raises DataError where that is not known."""
        if mix.num_classes is not None:
            return mix.num_classes
        if self.classes is not None:
            return len(self.classes)
        y = self.source.y if isinstance(self.source, Arrays) else None
        if not isinstance(y, np.ndarray) or y.dtype.kind not in "iu" or y.ndim != 1:
            raise DataError(
                "Loader: mix needs labels that are classes, and how many these are: give classes=[...], their names, or"
                " mix=transforms.MixUp(num_classes=10)"
            )
        return int(y.max()) + 1

    def mixed(self, x: Nest, y: Nest, epoch: int, first: Labels) -> tuple[Nest, Nest]:
        """Return the images of a batch mixed with each other, and shares of classes; first: of the first image."""
        assert self.mix is not None
        if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
            raise DataError("several inputs or targets cannot be mixed; leave mix out")
        return self.mix.mixed(x, one_hot("Loader: mix", y, self.mixed_classes), Draws(self.seed, epoch, first, MIX))

    def prepared(self, x: Nest, epoch: int, batch: int, index: Labels) -> Nest:
        """Return the images of a batch as floats, augmented and normalised. index: their places in the data."""
        if not isinstance(x, np.ndarray):
            if self.augment is not None or self.normalisation is not None:
                raise DataError("several inputs have no common augmentation, mean or std; prepare them before")
            return mapped(scaled, x)
        if self.augment is not None:
            key, counter = [self.seed, AUGMENT], [0, 0, batch, epoch]
            rng, images = Random(Philox(key=key, counter=counter)), len(x)
            x = self.augment(x, rng, Draws(self.seed, epoch, index))
            if not isinstance(x, np.ndarray) or x.ndim != 4 or len(x) != images:
                raise DataError(f"augment returned {shown(x)}, it has to return the images, [n, C, H, W]")
        return np.ascontiguousarray(scaled(x)) if self.normalisation is None else self.normalisation(x)


def of_dataset(
    data: Dataset, mean: Sequence[float] | None, std: Sequence[float] | None, classes: Sequence[str] | None
) -> tuple[Any, Any, Sequence[float], Sequence[float], Sequence[str], Channels]:
    """Return training images and labels of a Dataset, and what else a loader needs to know of it."""
    mean, std = (data.mean if mean is None else mean), (data.std if std is None else std)
    return data.images_train, data.y_train, mean, std, classes or data.classes, "first"


def checked_rows(rows: Ndarray, count: int | None) -> Labels:
    """Return places of items. Raises DataError unless they are some of `count` items."""
    places = np.asarray(rows)
    if places.ndim != 1 or places.dtype.kind not in "iu" or not len(places):
        raise DataError(f"Loader: rows is {shown(rows)}; give the places of one item or more")
    if count is None or places.min() < 0 or places.max() >= count:
        raise DataError(f"Loader: rows goes from {places.min()} to {places.max()}, and there are {count} items")
    return places.astype(np.int64)


def checked_epoch(epoch: int) -> int:
    """Return the number of an epoch. Raises ShapeError if it is none."""
    if not 0 <= epoch < LAST_EPOCH:
        raise ShapeError(f"Loader.epoch: epoch is {epoch}; epochs are counted from 0")
    return epoch


def same(pair: Batch) -> Batch:
    """Return what is given."""
    return pair


def even_batch(count: int, limit: int) -> int:
    """Return the smallest batch size with which `count` images take no more batches than with batches of `limit`."""
    return -(-count // -(-count // limit))


def filled(x: Ndarray, rows: int) -> Ndarray:
    """Return x [n, ...] with zeros appended up to `rows` rows; x itself if it has as many."""
    if len(x) == rows:
        return x
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


def normalise(x: Images, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """Return (x - mean) / std per channel for x [n, C, H, W], as a new C-contiguous float32 array.

    Bytes are divided by 255 before. Raises DataError for a mean or std that is not finite or does not fit.
    """
    return Normalisation(mean, std)(x)
