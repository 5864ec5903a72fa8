"""Mini-batches in an order that depends on (seed, epoch) only, so that a run can be repeated.

Random numbers come from Philox, a counter-based generator (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
easy as 1, 2, 3", 2011): the key is (seed, stream), the counter holds epoch and batch, and no state is carried from one
batch to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator, Philox

from foveal.arguments import checked
from foveal.data.augment import Augment
from foveal.data.dataset import Floats, Images, Labels
from foveal.data.statistics import Normalisation, scaled
from foveal.errors import DataError, ShapeError
from foveal.kinds import shown

# The streams of random numbers that this file draws from.
SHUFFLE, AUGMENT = 1, 2
# The counter of the generator that holds the epoch has 64 bits.
LAST_EPOCH = 1 << 62
# A batch is filled up with zeros to this many images at most.
LARGEST_FILLED = 1 << 16


class Loader:
    """Walks through images [n, C, H, W] and labels [n] in mini-batches of `batch_size` images each.

    All batches have one shape, because each distinct shape would be compiled. With `drop_last` (for training) the
    images left over after the last full batch are not used in this epoch; shuffling leaves out others in the next one.
    Without it (for evaluation) the last batch is filled up with zeros, and only the labels of the real images are
    given, so cut results to `len(labels)`. Images are bytes, which become floats (divided by 255) a batch at a time, or
    floats. `augment` (see augment.py) gets them as floats, before they are normalised with `mean` and `std` per
    channel. Raises DataError if no batch can be made of the images, or for a mean or std that cannot be used,
    ShapeError for a batch size below 1.
    """

    def __init__(
        self,
        x: Images,
        y: Labels,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: Augment | None = None,
    ) -> None:
        if np.ndim(x) != 4 or np.ndim(y) != 1:
            raise DataError(
                f"images of shape {np.shape(x)} and labels of shape {np.shape(y)}: they have to be [n, C, H, W] and [n]"
            )
        if len(x) != len(y) or len(x) == 0:
            raise DataError(f"{len(x)} images and {len(y)} labels: one label per image is needed")
        if batch_size < 1:
            raise ShapeError(f"batch size {batch_size}: at least 1 is needed")
        if batch_size > max(len(x), LARGEST_FILLED):
            raise ShapeError(f"batch size {batch_size}: there are only {len(x)} images; choose {len(x)} or less")
        if drop_last and batch_size > len(x):
            raise DataError(
                f"batch size {batch_size} is larger than the {len(x)} training images: choose {len(x)} or less"
            )
        # The arrays are not copied.
        self.x, self.y, self.batch_size = x, y, batch_size
        self.normalisation = Normalisation(mean, std)
        self.seed, self.shuffle, self.drop_last, self.augment = seed, shuffle, drop_last, augment

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> Labels:
        """Return the order of the images in this epoch: indices, int64 [n]."""
        if not self.shuffle:
            return np.arange(len(self.x))
        # Raw random words are sorted, as NumPy guarantees that they never change; for `permutation` it does not.
        words = Philox(key=[self.seed, SHUFFLE], counter=[0, 0, 0, epoch]).random_raw(len(self.x))
        return np.argsort(words, kind="stable")

    @checked
    def epoch(self, epoch: int) -> Iterator[tuple[Floats, Labels]]:
        """Return batches: normalised images, float32 [batch_size, C, H, W], and labels, int64 [m], m <= batch_size."""
        if not 0 <= epoch < LAST_EPOCH:
            raise ShapeError(f"Loader.epoch: epoch is {epoch}; epochs are counted from 0")
        return self.batches(epoch, self.order(epoch))

    def batches(self, epoch: int, order: Labels) -> Iterator[tuple[Floats, Labels]]:
        """Yield the batches of an epoch whose images come in this order."""
        for batch in range(len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            x = self.x[rows]
            if self.augment is not None:
                key, counter = [self.seed, AUGMENT], [0, 0, batch, epoch]
                x = self.augment(scaled(x), Generator(Philox(key=key, counter=counter)))
                if not isinstance(x, np.ndarray) or x.ndim != 4:
                    raise DataError(f"augment returned {shown(x)}, it has to return the images, [n, C, H, W]")
            yield filled(self.normalisation(x), self.batch_size), self.y[rows]


def even_batch(count: int, limit: int) -> int:
    """Return the smallest batch size with which `count` images take no more batches than with batches of `limit`."""
    return -(-count // -(-count // limit))


def filled(x: Floats, rows: int) -> Floats:
    """Return x [n, ...] with zeros appended up to `rows` rows; x itself if it has as many."""
    if len(x) == rows:
        return x
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


def normalise(x: Images, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """Return (x - mean) / std per channel for x [n, C, H, W], as a new C-contiguous float32 array.

    Bytes are divided by 255 before. Raises DataError for a mean or std that is not finite or does not fit.
    """
    return Normalisation(mean, std)(x)
