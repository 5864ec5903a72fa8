"""Filters that whiten patches of images: starting values of a first layer, by the images that it is to see."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from foveal.arguments import check_calls
from foveal.errors import DataError, ShapeError
from foveal.nn.conv import Conv2d
from foveal.nn.module import Module
from foveal.strides import Ndarray

# Images at once, of which sums are made in double precision: these take no more memory for more images.
BATCH = 250


def patch_covariance(images: Iterable[Ndarray], size: tuple[int, int]) -> Ndarray:
    """Return the mean of p p^T over all patches p of these images, float64 [D, D], D = C R S.

    images: batches [n, C, H, W], normalised. size: rows and columns (R, S) of a patch. The mean of the patches is not
    subtracted. Products are added up by NumPy in one order, whatever number of threads a library of matrices has, so
    that the bits depend on the images alone. Raises DataError where there is no patch.
    """
    rows, columns = size
    total, count = np.zeros((0, 0)), 0
    for batch in images:
        for start in range(0, len(batch), BATCH):
            x = np.asarray(batch[start : start + BATCH], np.float64)
            high, wide = x.shape[2] - rows + 1, x.shape[3] - columns + 1
            # D arrays [n, P, Q]: what the tap (c, r, s) of a filter meets
            taps = [
                np.ascontiguousarray(x[:, c, r : r + high, s : s + wide])
                for c in range(x.shape[1])
                for r in range(rows)
                for s in range(columns)
            ]
            if not total.size:
                total = np.zeros((len(taps), len(taps)))
            for i, left in enumerate(taps):
                for j, right in enumerate(taps[: i + 1]):
                    total[i, j] += np.multiply(left, right).sum()
            count += taps[0].size
    if not count:
        raise DataError(f"there are no patches of {rows}x{columns} pixels to whiten; give images of that size, or more")
    return (total + np.tril(total, -1).T) / count


def whitening_filters(images: Iterable[Ndarray], size: tuple[int, int], eps: float = 5e-4) -> Ndarray:
    """Return filters that whiten the patches of images, and their negatives: float32 [2 C R S, C, R, S].

    Row d of the first half is e_d / sqrt(lambda_d + eps), by falling lambda, where lambda and e are eigenvalues and
    eigenvectors of the covariance of all patches: over the patches the outputs have variance lambda / (lambda + eps),
    and are not correlated. images: batches [n, C, H, W], normalised; a few thousand images are enough. size: rows and
    columns (R, S) of the filters. eps: keeps noise in directions that hardly occur from growing. Of the two directions
    of e the one is taken whose largest component is positive. Page 2019; K. Jordan, 94 % on CIFAR-10 in 3.29 seconds on
    a single GPU, 2024, section 3.2. Raises DataError where there is no patch, ShapeError for an eps that is negative.
    """
    if not eps >= 0:
        raise ShapeError(f"whitening_filters: eps is {eps}, it has to be 0 or more")
    found = iter(images)
    first = next(found, None)
    if first is None or np.ndim(first) != 4:
        given = "none" if first is None else f"shape {np.shape(first)}"
        raise DataError(f"whitening_filters: images are batches [n, C, H, W], and there are {given}")

    def all_of_them() -> Iterable[Ndarray]:
        yield first
        yield from found

    values, vectors = np.linalg.eigh(patch_covariance(all_of_them(), size))
    # [D, D]: a row for each eigenvalue, the largest first
    rows = vectors.T[::-1]
    largest = rows[np.arange(len(rows)), abs(rows).argmax(1)]
    rows = rows * np.sign(largest)[:, None] / np.sqrt(np.maximum(values[::-1], 0) + eps)[:, None]
    filters = rows.reshape(len(rows), first.shape[1], *size).astype(np.float32)
    return np.concatenate([filters, -filters])


def first_convolution(net: Module) -> Conv2d:
    """Return the first layer of a network that can whiten: its first convolution, with 2 C R S filters [K, C, R, S].

    Raises ShapeError that says what there is instead.
    """
    layer = next((module for _, module in net.named_modules() if isinstance(module, Conv2d)), None)
    if layer is None:
        raise ShapeError(f"whiten: {type(net).__name__} has no convolution to whiten images with; leave it out")
    filters, *patch = layer.weight.shape
    wanted = 2 * int(np.prod(patch))
    if layer.groups != 1 or filters != wanted:
        raise ShapeError(
            f"whiten: the first convolution has {filters} filters of {patch[0]}x{patch[1]}x{patch[2]} in"
            f" {layer.groups} group(s), and whitening takes {wanted}, two for each number of a patch; use such a layer,"
            " as --model airbench94 has, or leave it out"
        )
    return layer


def whiten(net: Module, images: Iterable[Ndarray], eps: float = 5e-4) -> Conv2d:
    """Let the first convolution of a network whiten these images, and return it; see whitening_filters.

    Its filters are set and frozen (trainable = False), its bias, if it has one, is set to 0. Raises ShapeError for a
    network whose first convolution does not have 2 C R S filters.
    """
    layer = first_convolution(net)
    shape = layer.weight.shape
    filters = whitening_filters(images, (shape[2], shape[3]), eps)
    if filters.shape != shape:
        raise ShapeError(f"whiten: the images have {filters.shape[1]} channels, the first convolution takes {shape[1]}")
    layer.weight.data = filters
    layer.weight.trainable = False
    if layer.bias is not None:
        layer.bias.data = np.zeros(layer.bias.shape, np.float32)
    return layer


check_calls(__name__, ("patch_covariance", "whitening_filters", "first_convolution", "whiten"))
