"""Changes of place: flips, rotation, affine maps, perspective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveal.data.statistics import Images
from foveal.data.transforms import pictures
from foveal.data.transforms.draws import Draws
from foveal.data.transforms.pictures import GEOMETRIC, Fill, interpolation_of
from foveal.data.transforms.transform import RandomTransform, Shape, Transform, bounds
from foveal.errors import DataError, ShapeError
from foveal.kinds import shown
from foveal.strides import Ndarray


class RandomHorizontalFlip(RandomTransform):
    """Left and right exchanged, with probability p. Not for what a mirror image is of another class: text, digits."""

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] mirrored."""
        return x[..., ::-1]


class AlternatingHorizontalFlip(Transform):
    """Left and right exchanged in every other epoch of each image, from the first on for half of them.

    Two epochs in a row show both sides of each image, where by chance alone half of them would be seen twice from one
    side (K. Jordan, 94 % on CIFAR-10 in 3.29 seconds on a single GPU, 2024, section 3.6). Not in torchvision.
    """

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return which images are mirrored in this epoch, bool [n]."""
        first = Draws(draws.seed, 0, draws.index, draws.stream).integers(0, 2)
        return {"mirrored": (first + draws.epoch) % 2 == 1}

    def transform(self, x: Images, mirrored: Ndarray) -> Images:
        """Return images x [n, C, H, W], some of them mirrored."""
        return np.where(mirrored[:, None, None, None], x[..., ::-1], x)


class RandomVerticalFlip(RandomTransform):
    """Top and bottom exchanged, with probability p: for what has no upper side, such as images from above."""

    def transform(self, x: Images) -> Images:
        """Return images x [n, C, H, W] upside down."""
        return x[..., ::-1, :]


class RandomRotation(Transform):
    """Each image turned counter-clockwise by a random angle.

    degrees: (low, high), or one number d for (-d, d). interpolation: "nearest", "bilinear" or "bicubic". expand: make
    the result large enough for all of the image, of one image at a time, as others of a batch have other sizes.
    center: (x, y) in pixels from the upper left, the middle if not given. fill: pixels beyond the image, a number or
    one for each channel, in the images' own units.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: str = "nearest",
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: Fill = 0,
    ) -> None:
        self.degrees = symmetric(self, "degrees", degrees)
        self.interpolation, self.expand = interpolation_of(self, interpolation, GEOMETRIC), expand
        self.center, self.fill = place_of(self, center), fill

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return the angle of each image in degrees, [n]."""
        return {"angle": draws.uniform(*self.degrees)}

    def transform(self, x: Images, angle: Ndarray) -> Images:
        """Return images x [n, C, H, W] turned."""
        if self.expand and len(x) > 1:
            raise DataError(
                f"RandomRotation: expand gives each of {len(x)} images another size, and a batch has one; leave it out,"
                " or give one image at a time"
            )
        return pictures.rotate(
            "RandomRotation", x, angle, self.interpolation, self.fill, self.center, expand=self.expand
        )


class RandomAffine(Transform):
    """Each image turned, moved, scaled and sheared at random.

    degrees: of the rotation, (low, high), or one number d for (-d, d); 0 for none. translate: (a, b), the largest
    shares of width and height by which it is moved. scale: (low, high). shear: degrees along x, one number s for
    (-s, s), (low, high), or (low, high, low, high) along x and y. interpolation, fill, center: as of RandomRotation.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: str = "nearest",
        fill: Fill = 0,
        center: Sequence[float] | None = None,
    ) -> None:
        self.degrees = symmetric(self, "degrees", degrees)
        if translate is not None and (len(translate) != 2 or not all(0 <= share <= 1 for share in translate)):
            raise ShapeError(
                f"RandomAffine: translate is {shown(translate)}; give two shares of width and height, 0 to 1"
            )
        self.translate = None if translate is None else tuple(translate)
        self.scale = None if scale is None else bounds(self, "scale", scale, 0)
        if self.scale is not None and self.scale[0] == 0:
            raise ShapeError("RandomAffine: scale begins at 0, where nothing is left of an image; give more")
        self.shear = self.checked_shear(shear)
        self.interpolation, self.fill = interpolation_of(self, interpolation, GEOMETRIC), fill
        self.center = place_of(self, center)

    def checked_shear(self, shear: float | Sequence[float] | None) -> tuple[float, float, float, float] | None:
        """Return the range of the shear along x, and of that along y."""
        if shear is None:
            return None
        if isinstance(shear, int | float) or len(shear) != 4:
            return *symmetric(self, "shear", shear), 0.0, 0.0
        return *bounds(self, "shear", shear[:2]), *bounds(self, "shear", shear[2:])

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return angle [n], translate [n, 2] in whole pixels, scale [n] and shear [n, 2] of each image."""
        n, angle = shape[0], draws.uniform(*self.degrees)
        across, down = (0.0, 0.0) if self.translate is None else self.translate
        moves = [draws.uniform(-share, share) * side for share, side in ((across, shape[3]), (down, shape[2]))]
        scale = np.ones(n) if self.scale is None else draws.uniform(*self.scale)
        shear = (0.0, 0.0, 0.0, 0.0) if self.shear is None else self.shear
        both = [draws.uniform(*shear[:2]), draws.uniform(*shear[2:])]
        return {"angle": angle, "translate": np.rint(np.stack(moves, 1)), "scale": scale, "shear": np.stack(both, 1)}

    def transform(self, x: Images, angle: Ndarray, translate: Ndarray, scale: Ndarray, shear: Ndarray) -> Images:
        """Return images x [n, C, H, W] changed."""
        return pictures.affine(
            "RandomAffine", x, angle, translate, scale, shear, self.center, self.interpolation, self.fill
        )


class RandomPerspective(RandomTransform):
    """Each image as if seen from aside, with probability p.

    distortion_scale: 0 to 1; each corner is moved inwards by up to this share of half a side. interpolation, fill: as
    of RandomRotation.
    """

    def __init__(
        self, distortion_scale: float = 0.5, p: float = 0.5, interpolation: str = "bilinear", fill: Fill = 0
    ) -> None:
        super().__init__(p)
        if not 0 <= distortion_scale <= 1:
            raise ShapeError(f"RandomPerspective: distortion_scale is {distortion_scale}; it lies from 0 to 1")
        self.distortion_scale, self.fill = distortion_scale, fill
        self.interpolation = interpolation_of(self, interpolation, GEOMETRIC)

    def make_params(self, draws: Draws, shape: Shape) -> dict[str, Any]:
        """Return where the corners go, [n, 4, 2] as (x, y), clockwise from the upper left."""
        height, width = shape[2:]
        down, across = (int(self.distortion_scale * (side // 2)) + 1 for side in (height, width))
        corners = []
        # At the left and at the top a corner moves from 0 on, at the right and at the bottom to the last pixel.
        for right, bottom in ((False, False), (True, False), (True, True), (False, True)):
            x = draws.integers(width - across, width) if right else draws.integers(0, across)
            y = draws.integers(height - down, height) if bottom else draws.integers(0, down)
            corners.append(np.stack([x, y], 1))
        return {"ends": np.stack(corners, 1)}

    def transform(self, x: Images, ends: Ndarray) -> Images:
        """Return images x [n, C, H, W] with their corners there."""
        return pictures.perspective("RandomPerspective", x, ends, self.interpolation, self.fill)


def symmetric(transform: Transform, name: str, value: float | Sequence[float]) -> tuple[float, float]:
    """Return a range: (-v, v) of one number v of 0 or more."""
    if isinstance(value, int | float):
        if not 0 <= value < np.inf:
            raise ShapeError(f"{type(transform).__name__}: {name} is {value}; one number is 0 or more, for (-v, v)")
        return -float(value), float(value)
    return bounds(transform, name, value)


def place_of(transform: Transform, center: Sequence[float] | None) -> tuple[float, float] | None:
    """Return a place (x, y). Raises ShapeError for other than two numbers."""
    if center is None:
        return None
    if len(center) != 2:
        raise ShapeError(f"{type(transform).__name__}: center is {shown(center)}; give (x, y) in pixels")
    return float(center[0]), float(center[1])
