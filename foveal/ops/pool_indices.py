"""Values at given places of images, taken and put back: pooling to a fixed size, and the reverse of max pooling.

A place is h W + v, as int32. One outside of the image is left out.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import I64, cast, loops, parallel, when, where
from foveal.ops.op import Case, Operator
from foveal.ops.pool import Pair, check_images
from foveal.strides import Ndarray, Shape


def distinct(size: int) -> Any:
    """Places that differ from each other within an image of `size` elements."""

    def draw(rng: np.random.Generator, shape: Shape) -> Ndarray:
        flat = [rng.permutation(size)[: shape[2] * shape[3]] for _ in range(shape[0] * shape[1])]
        return np.array(flat).reshape(shape)

    return draw


def anywhere(size: int) -> Any:
    return lambda rng, shape: rng.integers(0, size, shape)


def check_places(name: str, x: Shape, places: Shape) -> None:
    check_images(name, x)
    check_images(name, places)
    if x[:2] != places[:2]:
        raise ShapeError(
            f"{name}: images of shape {x} and places of shape {places} do not fit; both need the same number of images"
            " and of channels"
        )


class TakePixels(Operator):
    """y[n,c,p,q] = x[n,c] at the place index[n,c,p,q]"""

    name, arity, integers = "take_pixels", 2, (1,)
    cases = (
        Case(((2, 3, 4, 5), (2, 3, 3, 2)), draw={1: anywhere(20)}),
        Case(((1, 18, 3, 3), (1, 18, 2, 5)), draw={1: anywhere(9)}),
    )

    def shape(self, x: Shape, index: Shape) -> Shape:
        check_places(self.name, x, index)
        return index

    def numpy(self, x: Ndarray, index: Ndarray) -> Ndarray:
        flat, places = x.reshape(*x.shape[:2], -1), index.reshape(*index.shape[:2], -1)
        inside = (places >= 0) & (places < flat.shape[2])
        found = np.take_along_axis(flat, np.where(inside, places, 0), axis=2)
        return np.where(inside, found, 0).reshape(index.shape)

    def vjp(self, dy: Any, y: Any, x: Any, index: Any) -> tuple[Any, ...]:
        return put_pixels(dy, index, image=x.shape[2:]), None

    def kernel(self, y: Any, x: Any, index: Any) -> None:
        (N, C, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p in parallel(N, P):
            for q, c in loops(Q, C):
                at = cast(index[n, c, p, q], I64)
                inside = at < H * W
                at = where(inside, at, 0)
                y[n, c, p, q] = where(inside, x[n, c, at // W, at % W], 0.0)


class PutPixels(Operator):
    """y[n,c] at a place = the sum of all x[n,c,p,q] whose index[n,c,p,q] it is; `image` is y's (H, W)"""

    name, arity, integers = "put_pixels", 2, (1,)
    unique: ClassVar[bool] = False
    cases: ClassVar[Sequence[Case]] = (
        Case(((2, 3, 3, 2), (2, 3, 3, 2)), {"image": (4, 5)}, {1: anywhere(20)}),
        Case(((1, 18, 2, 5), (1, 18, 2, 5)), {"image": (3, 3)}, {1: anywhere(9)}),
    )

    def shape(self, x: Shape, index: Shape, *, image: Pair) -> Shape:
        check_places(self.name, x, index)
        if x != index:
            raise ShapeError(
                f"{self.name}: values of shape {x} and places of shape {index} do not fit; each value needs a place"
            )
        if min(image) < 1:
            raise ShapeError(f"{self.name}: the image {image} has to have rows and columns")
        return (*x[:2], *image)

    def numpy(self, x: Ndarray, index: Ndarray, *, image: Pair) -> Ndarray:
        y = np.zeros((x.shape[0] * x.shape[1], image[0] * image[1]), x.dtype)
        places, values = index.reshape(len(y), -1), x.reshape(len(y), -1)
        row, column = np.nonzero((places >= 0) & (places < y.shape[1]))
        at = row, places[row, column]
        if self.unique:
            y[at] = values[row, column]
        else:
            np.add.at(y, at, values[row, column])
        return y.reshape(*x.shape[:2], *image)

    def vjp(self, dy: Any, y: Any, x: Any, index: Any, *, image: Pair) -> tuple[Any, ...]:
        return take_pixels(dy, index), None

    def kernel(self, y: Any, x: Any, index: Any, *, image: Pair) -> None:
        (N, C, H, W), (P, Q) = y.shape, x.shape[2:]
        for (n,) in parallel(N):
            for h, v, c in loops(H, W, C):
                y[n, c, h, v] = 0.0
            for p, q, c in loops(P, Q, C):
                at = cast(index[n, c, p, q], I64)
                for _ in when(at < H * W):
                    h, v = at // W, at % W
                    before = 0.0 if self.unique else y[n, c, h, v]
                    y[n, c, h, v] = x[n, c, p, q] + before


class MaxUnpool2d(PutPixels):
    """y[n,c] at the place index[n,c,p,q] = x[n,c,p,q], else 0; where a place occurs more than once, the last one stays

    The reverse of max pooling with its indices: Zeiler and Fergus 2014, section 2.1.
    """

    name = "max_unpool2d"
    unique = True
    cases = (Case(((2, 3, 3, 2), (2, 3, 3, 2)), {"image": (4, 5)}, {1: distinct(20)}),)


take_pixels, put_pixels, max_unpool2d = TakePixels(), PutPixels(), MaxUnpool2d()
