"""Values at given places of images, taken and put back: pooling to a fixed size, and the reverse of max pooling.

A place is an index h W + v into an image, as int32. One outside of the image is left out.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import I64, Array, Scalar, cast, loops, parallel, when, where
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.pool import check_images
from foveal.ops.window import Pair, PairArgument, pair
from foveal.strides import Ndarray, Shape

# How an input of a case is drawn.
Draw = Callable[[np.random.Generator, Shape], Ndarray]


def distinct_places(size: int) -> Draw:
    """Draw places that differ from each other within an image of `size` pixels."""

    def draw(rng: np.random.Generator, shape: Shape) -> Ndarray:
        flat = [rng.permutation(size)[: shape[2] * shape[3]] for _ in range(shape[0] * shape[1])]
        return np.array(flat).reshape(shape)

    return draw


def any_places(size: int) -> Draw:
    """Draw places of an image of `size` pixels, which may be equal."""
    return lambda rng, shape: rng.integers(0, size, shape)


def check_places(name: str, x: Shape, places: Shape) -> None:
    """Raise ShapeError unless images x [N, C, H, W] and places [N, C, P, Q] have the same N and C."""
    check_images(name, x)
    check_images(name, places)
    if x[:2] != places[:2]:
        raise ShapeError(
            f"{name}: images of shape {x} and places of shape {places} do not fit; both need the same number of images"
            " and of channels"
        )


class TakePixels(Operator):
    """y[n,c,p,q] = x[n,c] at the place index[n,c,p,q], or 0 where that is outside of the image

    The values at given places: x [N, C, H, W] and int32 index [N, C, P, Q] -> y [N, C, P, Q]. Raises ShapeError where N
    or C differ.
    """

    name, arity, integers = "take_pixels", 2, (1,)
    cases = (
        Case(((2, 3, 4, 5), (2, 3, 3, 2)), draw={1: any_places(20)}),
        Case(((1, 18, 3, 3), (1, 18, 2, 5)), draw={1: any_places(9)}),
    )

    def normalise(self, x: HasShape, index: HasShape) -> dict[str, Any]:
        return {}

    def shape(self, x: Shape, index: Shape) -> Shape:
        check_places(self.name, x, index)
        return index

    def numpy(self, x: Ndarray, index: Ndarray) -> Ndarray:
        if not x.size:
            return np.zeros(index.shape, x.dtype)
        flat, places = x.reshape(*x.shape[:2], -1), index.reshape(*index.shape[:2], -1)
        inside = (places >= 0) & (places < flat.shape[2])
        values = np.take_along_axis(flat, np.where(inside, places, 0), axis=2)
        return np.where(inside, values, 0).reshape(index.shape)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, index: Tensor) -> tuple[Tensor | None, ...]:
        return put_pixels(dy, index, image_size=x.shape[2:]), None

    def kernel(self, y: Array, x: Array, index: Array) -> None:
        (N, C, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p in parallel(N, P):
            for q, c in loops(Q, C):
                # a negative place is a large one: int32 is extended without its sign
                place = cast(index[n, c, p, q], I64)
                inside = place < H * W
                place = where(inside, place, 0)
                y[n, c, p, q] = where(inside, x[n, c, place // W, place % W], 0.0)


class PutPixels(Operator):
    """y[n,c] at a place = the sum of all x[n,c,p,q] whose index[n,c,p,q] it is

    Values put at given places, the adjoint of take_pixels: x [N, C, P, Q] and int32 index [N, C, P, Q] -> y [N, C, H,
    W]. image_size: (H, W). Raises ShapeError where the shapes differ or the image has no pixels.
    """

    name, arity, integers = "put_pixels", 2, (1,)
    #: True if values at the same place are not added up, but the last one stays
    unique: ClassVar[bool] = False
    cases: ClassVar[Sequence[Case]] = (
        Case(((2, 3, 3, 2), (2, 3, 3, 2)), {"image_size": (4, 5)}, {1: any_places(20)}),
        Case(((1, 18, 2, 5), (1, 18, 2, 5)), {"image_size": (3, 3)}, {1: any_places(9)}),
    )

    def normalise(self, x: HasShape, index: HasShape, *, image_size: PairArgument) -> dict[str, Any]:
        return {"image_size": pair(image_size, f"{self.name}: image_size")}

    def shape(self, x: Shape, index: Shape, *, image_size: Pair) -> Shape:
        check_places(self.name, x, index)
        if x != index:
            raise ShapeError(
                f"{self.name}: values of shape {x} and places of shape {index} do not fit; each value needs a place"
            )
        if min(image_size) < 1:
            raise ShapeError(f"{self.name}: image_size {image_size} has to be 1 or more rows and columns")
        return (*x[:2], *image_size)

    def numpy(self, x: Ndarray, index: Ndarray, *, image_size: Pair) -> Ndarray:
        H, W = image_size
        # [N C, H W]; places and values are [N C, P Q]
        y = np.zeros((x.shape[0] * x.shape[1], H * W), x.dtype)
        places, values = index.reshape(len(y), -1), x.reshape(len(y), -1)
        row, column = np.nonzero((places >= 0) & (places < y.shape[1]))
        targets = row, places[row, column]
        if self.unique:
            y[targets] = values[row, column]
        else:
            np.add.at(y, targets, values[row, column])
        return y.reshape(*x.shape[:2], H, W)

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, index: Tensor, *, image_size: Pair) -> tuple[Tensor | None, ...]:
        return take_pixels(dy, index), None

    def kernel(self, y: Array, x: Array, index: Array, *, image_size: Pair) -> None:
        (N, C, H, W), (P, Q) = y.shape, x.shape[2:]
        # values of an image may meet, so a thread has a whole image
        for (n,) in parallel(N):
            for h, v, c in loops(H, W, C):
                y[n, c, h, v] = 0.0
            for p, q, c in loops(P, Q, C):
                # a negative place is a large one: int32 is extended without its sign
                place = cast(index[n, c, p, q], I64)
                for _ in when(place < H * W):
                    h, v = place // W, place % W
                    before: Scalar = 0.0 if self.unique else y[n, c, h, v]
                    y[n, c, h, v] = x[n, c, p, q] + before


class MaxUnpool2d(PutPixels):
    """y[n,c] at the place index[n,c,p,q] = x[n,c,p,q], else 0

    The reverse of max pooling with its indices (Zeiler and Fergus 2014, section 2.1): x [N, C, P, Q] and int32 index
    [N, C, P, Q] -> y [N, C, H, W]. Where a place occurs more than once, the last value stays. image_size: (H, W).
    Raises ShapeError where the shapes differ or the image has no pixels.
    """

    name = "max_unpool2d"
    unique = True
    cases = (Case(((2, 3, 3, 2), (2, 3, 3, 2)), {"image_size": (4, 5)}, {1: distinct_places(20)}),)


take_pixels, put_pixels, max_unpool2d = TakePixels(), PutPixels(), MaxUnpool2d()
