"""What one look at each image keeps of it: a hash, a thumbnail, digests, and a few numbers.

An image is decoded once, at a reduced scale where its format allows, and drawn on GRID x GRID pixels. All else is
computed from that for many images at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Sides of the picture that everything is computed from, and of the thumbnail that is kept.
GRID, THUMB = 32, 16
# Bits of a hash, and the highest frequency of a cosine that any of them belongs to.
BITS, HIGHEST = 64, 16
# Luma of ITU-R BT.601, as Pillow converts to grey.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Bytes of a digest.
DIGEST = 16


@dataclass(frozen=True)
class Looks:
    """What is kept of n images; a row that could not be looked at is zero, and `seen` is False there."""

    #: False for what could not be decoded [n].
    seen: NDArray[np.bool_]
    #: Thumbnails [n, THUMB, THUMB, 3].
    thumbs: Bytes
    #: Perceptual hashes [n], uint64.
    hashes: NDArray[np.uint64]
    #: Digests of the file's bytes, and of the decoded pixels with their size [n, DIGEST]; zero where there is none.
    files: Bytes
    pixels: Bytes
    #: Mean of the luma, 0 to 255; its standard deviation; mean difference of the channels; mean step from pixel to
    #: pixel [n].
    brightness: Floats
    contrast: Floats
    colour: Floats
    detail: Floats
    #: The largest standard deviation of a channel [n]: of a blank image, 0.
    variation: Floats
    #: True where all three channels are equal [n].
    grey: NDArray[np.bool_]

    @classmethod
    def empty(cls, count: int) -> Looks:
        """Return room for so many images."""
        numbers = {name: np.zeros(count, np.float32) for name in NUMBERS}
        return cls(
            seen=np.zeros(count, bool),
            thumbs=np.zeros((count, THUMB, THUMB, 3), np.uint8),
            hashes=np.zeros(count, np.uint64),
            files=np.zeros((count, DIGEST), np.uint8),
            pixels=np.zeros((count, DIGEST), np.uint8),
            grey=np.zeros(count, bool),
            **numbers,
        )

    def put(self, rows: NDArray[np.int64], grids: Bytes) -> None:
        """Keep what is computed of pictures [m, GRID, GRID, 3] in these rows."""
        self.seen[rows] = True
        luma = grids @ _LUMA
        self.hashes[rows] = hashes(luma)
        # Sums of the 2x2 pixels of each pixel of a thumbnail.
        wide = grids.astype(np.uint16)
        sums = wide[:, ::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, ::2] + wide[:, 1::2, 1::2]
        self.thumbs[rows] = (sums + 2) // 4
        self.brightness[rows] = luma.mean((1, 2))
        self.contrast[rows] = luma.std((1, 2))
        red, green, blue = np.moveaxis(grids, 3, 0)
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        self.colour[rows] = spread.mean((1, 2), dtype=np.float32)
        self.detail[rows] = (abs(np.diff(luma, axis=1)).mean((1, 2)) + abs(np.diff(luma, axis=2)).mean((1, 2))) / 2
        self.variation[rows] = deviations(grids).max(1)
        self.grey[rows] = ~spread.any((1, 2))


def deviations(grids: Bytes) -> Floats:
    """Return the standard deviation of each channel [n, 3] of pictures [n, GRID, GRID, 3]."""
    values = grids.reshape(len(grids), -1, 3).astype(np.float32)
    # Sums of squares of up to 2^8 levels of 2^10 pixels fit float32 only without their mean.
    values -= values.mean(1, keepdims=True)
    return np.sqrt(np.einsum("npc,npc->nc", values, values) / values.shape[1])


NUMBERS = ("brightness", "contrast", "colour", "detail", "variation")
assert {*NUMBERS} <= {f.name for f in fields(Looks)}


def _cosines() -> Floats:
    """The cosines of the discrete cosine transform (DCT-II) of GRID points [HIGHEST, GRID], without scale."""
    points, orders = np.arange(GRID) + 0.5, np.arange(HIGHEST)[:, None]
    return np.cos(np.pi / GRID * points * orders).astype(np.float32)


def _lowest() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the BITS lowest frequencies of a two-dimensional transform, without the mean."""
    pairs = [(i, j) for i in range(HIGHEST) for j in range(HIGHEST) if i + j > 0]
    pairs.sort(key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))
    chosen = np.array(pairs[:BITS])
    return chosen[:, 0], chosen[:, 1]


COSINES, LOWEST = _cosines(), _lowest()


def hashes(luma: Floats) -> NDArray[np.uint64]:
    """Return the perceptual hash [n] of pictures [n, GRID, GRID]: signs of their 64 lowest frequencies.

    As in pHash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1), the
    bits are those of a discrete cosine transform of 32x32 pixels of grey; the lowest frequencies are taken by their
    distance from zero, and the sign is the bit, since the median of coefficients without the mean is near zero.
    """
    rows, columns = LOWEST
    transform = (COSINES @ luma @ COSINES.T)[:, rows, columns]
    # Neighbours in frequency lie in different bytes, so that all bands of a hash are equally reliable.
    bits = (transform > 0).reshape(len(luma), BITS // 8, 8).transpose(0, 2, 1).reshape(len(luma), BITS)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def averaging(points: int, cells: int) -> Floats:
    """Return the matrix [cells, points] that averages so many points over so many cells by the area they share."""
    edges = np.arange(cells + 1) * (points / cells)
    low = np.maximum(edges[:-1, None], np.arange(points))
    high = np.minimum(edges[1:, None], np.arange(points) + 1)
    shares = np.maximum(0, high - low)
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)


def on_grid(images: Floats) -> Bytes:
    """Return images [n, C, H, W] of 1 or 3 channels, 0 to 255, as pictures [n, GRID, GRID, 3]."""
    height, width = images.shape[2:]
    drawn = averaging(height, GRID) @ images @ averaging(width, GRID).T
    colours = np.round(np.moveaxis(drawn, 1, 3)).clip(0, 255).astype(np.uint8)
    return np.repeat(colours, 3, axis=3) if colours.shape[3] == 1 else colours
