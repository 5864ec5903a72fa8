"""Mini-batches in an order that depends on (seed, epoch) only, so that a run can be repeated.

Random numbers come from Philox, a counter-based generator (Salmon et al. 2011): the key is
(seed, stream), the counter holds epoch and batch, and no state is carried from one batch to the
next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.random import Generator, Philox

from foveal.data.readers import Floats, Labels
from foveal.errors import DataError, ShapeError

SHUFFLE, AUGMENT = 1, 2  # the streams of this file
AUGMENTATIONS = ("shift", "crop+flip")

Augment = Callable[[Floats, Generator], Floats]


class Loader:
    """Walks through images [n, C, H, W] and labels [n] in mini-batches of `batch_size` rows each.

    Every batch has one shape because each distinct shape would be compiled. With `drop_last` (for
    training) the images left over after the last full batch sit out this epoch; shuffling picks
    others in the next. Without it (for evaluation) the last batch is filled up with zeros, and
    only the labels of the real rows are given: cut results to `len(labels)`. `augment` sees images
    before normalisation with `mean` and `std`. Raises DataError where no batch can be made.
    """

    def __init__(
        self,
        x: Floats,
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
        if len(x) != len(y) or len(x) == 0:
            raise DataError(f"{len(x)} images and {len(y)} labels: one label per image is needed")
        if batch_size < 1:
            raise ShapeError(f"batch size {batch_size}: at least 1 is needed")
        if drop_last and batch_size > len(x):
            raise DataError(
                f"batch size {batch_size} is larger than the {len(x)} training images: choose {len(x)} or less"
            )
        self.x, self.y, self.batch_size = x, y, batch_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.seed, self.shuffle, self.drop_last, self.augment = seed, shuffle, drop_last, augment

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> Labels:
        """The order of the images in this epoch: int64 [n]."""
        if not self.shuffle:
            return np.arange(len(self.x))
        # Sorting raw random words: NumPy promises those never change, `permutation` it does not.
        words = Philox(key=[self.seed, SHUFFLE], counter=[0, 0, 0, epoch]).random_raw(len(self.x))
        return np.argsort(words, kind="stable")

    def epoch(self, epoch: int) -> Iterator[tuple[Floats, Labels]]:
        """Yields x [batch_size, C, H, W] float32 and labels [rows], rows <= batch_size, int64."""
        order = self.order(epoch)
        for batch in range(len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            x = self.x[rows]
            if self.augment is not None:
                key, counter = [self.seed, AUGMENT], [0, 0, batch, epoch]
                x = self.augment(x, Generator(Philox(key=key, counter=counter)))
            x = normalise(x, self.mean, self.std)
            yield filled(x, self.batch_size), self.y[rows]


def even_batch(count: int, limit: int) -> int:
    """The batch size <= limit that needs the fewest batches for `count` images, then the least."""
    return -(-count // -(-count // limit))


def filled(x: Floats, rows: int) -> Floats:
    """x [n, ...] with zeros after it up to `rows` rows."""
    if len(x) == rows:
        return x
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


def normalise(x: Floats, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """(x - mean) / std per channel: float32 [n, C, H, W], in one piece, a new array."""
    centre = np.asarray(mean, np.float32)[:, None, None]
    scale = (1 / np.asarray(std)).astype(np.float32)[:, None, None]
    result = np.subtract(x, centre, order="C")
    result *= scale
    return result


def random_crop_flip(x: Floats, rng: Generator, pad: int, flip: bool) -> Floats:
    """Move each image by up to `pad` pixels in both directions and mirror half of them.

    x and result: [n, C, H, W]. Same as a random crop after padding with zeros (black), and a
    horizontal flip with probability 1/2 if `flip`.
    """
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    down, right = rng.integers(0, 2 * pad + 1, (2, n))
    moved = windows[np.arange(n), :, down, right]  # [n, C, H, W]
    if flip:
        mirrored = rng.random(n) < 0.5
        moved[mirrored] = moved[mirrored][..., ::-1]
    return moved


def augmentation(name: str | None, size: tuple[int, int]) -> Augment | None:
    """The augmentation called `name` for images of `size` (H, W), or None.

    `shift` moves by up to 1/12 of the height (2 pixels of 28), `crop+flip` by up to 1/8 (4 of 32)
    and mirrors. Raises ShapeError for another name.
    """
    if name is None:
        return None
    if name not in AUGMENTATIONS:
        raise ShapeError(f"augmentation {name!r}: choose from {', '.join(AUGMENTATIONS)}")
    flip = name == "crop+flip"
    pad = max(1, min(size) // (8 if flip else 12))
    return lambda x, rng: random_crop_flip(x, rng, pad, flip)
