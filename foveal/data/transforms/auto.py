"""Augmentations that draw operations by themselves: AutoAugment, RandAugment, TrivialAugmentWide, AugMix.

All of them take bytes, or floats from 0 to 1, of 1 or 3 channels, and raise DataError for others. interpolation is
"nearest", "bilinear" or "bicubic"; fill is what stands beyond the image, a number or one for each channel, in the
images' own units, 0 if not given.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from foveal.data.statistics import Images
from foveal.data.transforms.draws import Draws
from foveal.data.transforms.operations import How, Space, Strength, operated, space, strengths
from foveal.data.transforms.pictures import GEOMETRIC, Fill, interpolation_of
from foveal.data.transforms.pixels import check_colours
from foveal.data.transforms.policies import POLICIES
from foveal.data.transforms.transform import Shape, Transform, per_image
from foveal.errors import ShapeError
from foveal.strides import Ndarray

# The largest move of AutoAugment and RandAugment, as a share of a side.
MOVE = 150 / 331


class AutomaticAugment(Transform):
    """What the automatic augmentations have in common."""

    def __init__(self, interpolation: str, fill: Fill) -> None:
        self.interpolation, self.fill = interpolation_of(self, interpolation, GEOMETRIC), fill

    @property
    def how(self) -> How:
        """How geometric operations find their pixels."""
        return How(type(self).__name__, self.interpolation, self.fill)

    def transform(self, x: Images, operation: Ndarray, strength: Ndarray) -> Images:
        """Return images x [n, C, H, W] changed by operations [steps, n] of these strengths, one after the other."""
        check_colours(type(self).__name__, x)
        for numbers, strong in zip(operation, strength, strict=True):
            x = operated(x, self.names, numbers, strong, self.how)
        return x

    @property
    def names(self) -> list[str]:
        """The operations, in the order of their numbers."""
        return list(self.space((1, 1)))

    def space(self, size: tuple[int, int]) -> Space:
        """Return the operations and their strengths for images of `size` (rows, columns)."""
        raise NotImplementedError


class RandAugment(AutomaticAugment):
    """num_ops operations of equal strength, drawn at random (Cubuk et al. 2020).

    magnitude: the strength, from 0 to num_magnitude_bins - 1, the largest.
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        interpolation: str = "nearest",
        fill: Fill = None,
    ) -> None:
        super().__init__(interpolation, fill)
        if num_ops < 0:
            raise ShapeError(f"RandAugment: num_ops is {num_ops}; it is 0 or more")
        bins = checked_bins(self, num_magnitude_bins)
        if not 0 <= magnitude < bins:
            raise ShapeError(f"RandAugment: magnitude is {magnitude}; with {bins} bins it is from 0 to {bins - 1}")
        self.num_ops, self.magnitude, self.num_magnitude_bins = num_ops, magnitude, bins

    def space(self, size: tuple[int, int]) -> Space:
        """Return the operations and their strengths."""
        return space(self.num_magnitude_bins, (MOVE * size[1], MOVE * size[0]))

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return numbers of operations and their strengths, [num_ops, n] each."""
        of, place = self.space(shape[2:]), np.full(shape[0], self.magnitude)
        operations = [draws.integers(0, len(of)) for _ in range(self.num_ops)]
        strong = [strengths(of, numbers, place, draws.uniform() < 0.5) for numbers in operations]
        return {"operation": operations, "strength": strong}


class TrivialAugmentWide(AutomaticAugment):
    """One operation of random strength for each image (Mueller and Hutter 2021).

    num_magnitude_bins: how many strengths there are. Images are turned by up to 135 degrees.
    """

    def __init__(self, num_magnitude_bins: int = 31, interpolation: str = "nearest", fill: Fill = None) -> None:
        super().__init__(interpolation, fill)
        self.num_magnitude_bins = checked_bins(self, num_magnitude_bins)

    def space(self, size: tuple[int, int]) -> Space:
        """Return the operations and their strengths."""
        return space(self.num_magnitude_bins, (32.0, 32.0), shear=0.99, turn=135.0, colour=0.99, bits=(8, 2))

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return the number of an operation and its strength, [1, n] each."""
        of = self.space(shape[2:])
        numbers, place = draws.integers(0, len(of)), draws.integers(0, self.num_magnitude_bins)
        return {"operation": numbers[None], "strength": strengths(of, numbers, place, draws.uniform() < 0.5)[None]}


class AutoAugment(AutomaticAugment):
    """A pair of operations out of 25 that were found by a search (Cubuk et al. 2019).

    policy: "imagenet", "cifar10" or "svhn", the data set of the search.
    """

    def __init__(self, policy: str = "imagenet", interpolation: str = "nearest", fill: Fill = None) -> None:
        super().__init__(interpolation, fill)
        if policy not in POLICIES:
            raise ShapeError(f"AutoAugment: policy is {policy!r}; choose from {', '.join(POLICIES)}")
        self.policy = policy

    def space(self, size: tuple[int, int]) -> Space:
        """Return the operations and their strengths."""
        of = space(10, (MOVE * size[1], MOVE * size[0]))
        return {name: strength for name, strength in of.items() if name != "Identity"} | {"Invert": Strength()}

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return numbers of operations, -1 for none, and their strengths, [2, n] each."""
        of, policy = self.space(shape[2:]), POLICIES[self.policy]
        names, chosen = list(of), draws.integers(0, len(policy))
        operations, strong = [], []
        for step in (0, 1):
            steps = [pair[step] for pair in policy]
            number = np.array([names.index(name) for name, _, _ in steps])[chosen]
            p, place = (np.array([entry[i] for entry in steps])[chosen] for i in (1, 2))
            operations.append(np.where(draws.uniform() <= p, number, -1))
            strong.append(strengths(of, number, place, draws.uniform() < 0.5))
        return {"operation": operations, "strength": strong}


class AugMix(AutomaticAugment):
    """Each image mixed with several chains of operations on it (Hendrycks et al. 2020).

    severity: the largest strength, 1 to 10. mixture_width: the number of chains. chain_depth: operations of a chain; 0
    or less for 1 to 3 at random. alpha: of the Dirichlet and beta distributions of the shares. all_ops: brightness,
    contrast, color and sharpness too, which overlap with some test sets of corrupted images.
    """

    STRENGTHS = 10

    def __init__(
        self,
        severity: int = 3,
        mixture_width: int = 3,
        chain_depth: int = -1,
        alpha: float = 1.0,
        all_ops: bool = True,
        interpolation: str = "bilinear",
        fill: Fill = None,
    ) -> None:
        super().__init__(interpolation, fill)
        if not 1 <= severity <= self.STRENGTHS:
            raise ShapeError(f"AugMix: severity is {severity}; it is from 1 to {self.STRENGTHS}")
        if mixture_width < 1 or not 0 < alpha < np.inf:
            raise ShapeError(f"AugMix: mixture_width is {mixture_width} and alpha {alpha}; 1 or more, and above 0")
        self.severity, self.mixture_width, self.chain_depth = severity, mixture_width, chain_depth
        self.alpha, self.all_ops = alpha, all_ops

    def space(self, size: tuple[int, int]) -> Space:
        """Return the operations and their strengths."""
        of = space(self.STRENGTHS, (size[1] / 3, size[0] / 3), bits=(4, 0))
        left_out = {"Identity"} if self.all_ops else {"Identity", "Brightness", "Color", "Contrast", "Sharpness"}
        return {name: strength for name, strength in of.items() if name not in left_out}

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return numbers of operations, -1 for none, and strengths, [chains, steps, n]; shares [n, 1 + chains]."""
        of, n = self.space(shape[2:]), shape[0]
        steps = self.chain_depth if self.chain_depth > 0 else 3
        operation, strong = np.empty((2, self.mixture_width, steps, n))
        for chain in range(self.mixture_width):
            depth = np.full(n, steps) if self.chain_depth > 0 else draws.integers(1, 4)
            for step in range(steps):
                numbers, place = draws.integers(0, len(of)), draws.integers(0, self.severity)
                operation[chain, step] = np.where(step < depth, numbers, -1)
                strong[chain, step] = strengths(of, numbers, place, draws.uniform() < 0.5)
        kept = draws.fork(0).dirichlet(self.alpha, 2)
        chains = draws.fork(1).dirichlet(self.alpha, self.mixture_width) * kept[:, 1:]
        return {"operation": operation, "strength": strong, "shares": np.concatenate([kept[:, :1], chains], 1)}

    def transform(self, x: Images, operation: Ndarray, strength: Ndarray, shares: Ndarray | None = None) -> Images:
        """Return the sums of images x [n, C, H, W] and of their chains, by their shares."""
        assert shares is not None
        mixed = x * per_image(shares[:, 0])
        for chain, (numbers, strong) in enumerate(zip(operation, strength, strict=True)):
            mixed += super().transform(x, numbers, strong) * per_image(shares[:, 1 + chain])
        result: Ndarray = mixed.astype(x.dtype)
        return result


def checked_bins(transform: Transform, bins: int) -> int:
    """Return a number of strengths. Raises ShapeError for less than two."""
    if bins < 2:
        raise ShapeError(f"{type(transform).__name__}: num_magnitude_bins is {bins}; it is 2 or more")
    return bins
