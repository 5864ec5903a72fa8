"""Images with a border: of a constant, mirrored, repeated or wrapped around."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, Index, Scalar, loop, loops, parallel, splat, where
from foveal.kinds import AnyNumber
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.pool import add_at, channel_vectors, rows_and_columns, zero_image
from foveal.ops.window import Pair, PairArgument, Sides, both, pair, sides
from foveal.strides import Ndarray, Shape

# the modes by their names in NumPy
MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Padding(Operator):
    """Base of pad and its gradient."""

    arity = 1

    def border(self, padding: PairArgument, mode: str, value: float) -> dict[str, Any]:
        """The attributes of a border in full form; ShapeError for an unknown mode and for negative padding."""
        if mode not in MODES:
            raise ShapeError(f"{self.name}: mode {mode!r} is not known; choose one of {', '.join(MODES)}")
        full = sides(padding, f"{self.name}: padding")
        if min(full) < 0:
            raise ShapeError(f"{self.name}: padding {full} has to be 0 or more")
        return {"padding": full, "mode": mode, "value": float(value)}

    def padded(self, x: Shape, padding: Sides, mode: str) -> Shape:
        """The shape of images x [N, C, H, W] with the border; ShapeError where they are too small for it."""
        if len(x) != 4:
            raise ShapeError(f"{self.name}: takes images [N, C, H, W], got shape {x}")
        top, bottom, left, right = padding
        for word, n, widest in (("rows", x[2], max(top, bottom)), ("columns", x[3], max(left, right))):
            # a mirrored border does not repeat the edge, and a circular one goes round once
            limit = {"reflect": n - 1, "circular": n}.get(mode, widest)
            if widest > limit or (n == 0 and mode == "replicate"):
                raise ShapeError(
                    f"{self.name}: {mode} padding of {widest} {word} needs an image of at least"
                    f" {widest + (mode == 'reflect')}, it has {n} (shape {x}, padding {padding}); use less padding, or"
                    f" mode replicate or constant"
                )
        return (*x[:2], x[2] + top + bottom, x[3] + left + right)


def source(p: Index, before: int, n: int, mode: str) -> tuple[Index, Scalar]:
    """(position, valid): the position, of n along an axis, that position p of the padded axis shows.

    before: the padding before the first position. valid: if there is one, True where that is known; else position is 0.
    """
    i = p - before
    if mode == "constant":
        valid = (i >= 0) & (i < n)
        return where(valid, i, 0), valid
    if mode == "circular":
        i = where(i < 0, i + n, i)
        return where(i >= n, i - n, i), True
    i = where(i < 0, 0 - i if mode == "reflect" else 0, i)
    return where(i >= n, 2 * (n - 1) - i if mode == "reflect" else n - 1, i), True


class Pad(Padding):
    """y[n,c,p,q] = x[n, c, i(p - top), j(q - left)], where i and j are the pixels that the border shows

    Images with a border: x [N, C, H, W] -> y [N, C, top + H + bottom, left + W + right].

    mode: "constant" gives `value` outside of the image; "reflect" mirrors the image at its first and last rows and
    columns, which are not repeated; "replicate" repeats them; "circular" takes i modulo H and j modulo W. padding: a
    number, (rows, columns) or (top, bottom, left, right).

    Raises ShapeError where x is not four-dimensional, the mode is unknown, padding is negative, or the image is smaller
    than what the mode needs.
    """

    name = "pad"
    cases = (
        Case(((2, 3, 4, 5),), {"padding": (1, 2, 0, 3), "value": 0.5}),
        Case(((1, 18, 4, 3),), {"padding": (3, 1, 2, 1), "mode": "reflect"}),
        Case(((2, 3, 2, 3),), {"padding": (0, 4, 3, 1), "mode": "replicate"}),
        Case(((2, 3, 3, 4),), {"padding": (3, 1, 2, 4), "mode": "circular"}),
    )

    def normalise(
        self, x: HasShape, *, padding: PairArgument, mode: str = "constant", value: AnyNumber = 0.0
    ) -> dict[str, Any]:
        return self.border(padding, mode, value)

    def shape(self, x: Shape, *, padding: Sides, mode: str, value: float) -> Shape:
        return self.padded(x, padding, mode)

    def numpy(self, x: Ndarray, *, padding: Sides, mode: str, value: float) -> Ndarray:
        top, bottom, left, right = padding
        constant = {"constant_values": value} if mode == "constant" else {}
        widths = ((0, 0), (0, 0), (top, bottom), (left, right))
        return np.asarray(np.pad(x, widths, MODES[mode], **constant))  # type: ignore[call-overload]

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, *, padding: Sides, mode: str, value: float) -> tuple[Tensor, ...]:
        return (pad_grad(dy, padding=padding, mode=mode, image_size=x.shape[2:]),)

    def kernel(self, y: Array, x: Array, *, padding: Sides, mode: str, value: float) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        # threads share images and rows
        for n, p in parallel(N, P):
            h, row = source(p, padding[0], H, mode)
            for q in loop(Q):
                v, column = source(q, padding[2], W, mode)
                for c, width in channel_vectors(y):
                    shown = x.load((n, c, h, v), width)
                    if mode == "constant":
                        shown = where(splat(both(row, column), width), shown, value)
                    y.store((n, c, p, q), shown, width)


class PadGrad(Padding):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] over the places (p, q) that show (h, v)

    The gradient of pad: dy [N, C, top + H + bottom, left + W + right] -> dx [N, C, H, W]. image_size: (H, W). The other
    arguments and the errors are those of pad.
    """

    name = "pad_grad"
    cases = (
        Case(((2, 3, 7, 8),), {"padding": (1, 2, 0, 3), "image_size": (4, 5)}),
        Case(((1, 18, 8, 6),), {"padding": (3, 1, 2, 1), "mode": "reflect", "image_size": (4, 3)}),
        Case(((2, 3, 6, 7),), {"padding": (0, 4, 3, 1), "mode": "replicate", "image_size": (2, 3)}),
        Case(((2, 3, 7, 10),), {"padding": (3, 1, 2, 4), "mode": "circular", "image_size": (3, 4)}),
    )

    def normalise(
        self,
        dy: HasShape,
        *,
        padding: PairArgument,
        mode: str = "constant",
        value: AnyNumber = 0.0,
        image_size: PairArgument,
    ) -> dict[str, Any]:
        return self.border(padding, mode, value) | {"image_size": pair(image_size, f"{self.name}: image_size")}

    def shape(self, dy: Shape, *, padding: Sides, mode: str, value: float, image_size: Pair) -> Shape:
        H, W = image_size
        expected = self.padded((*dy[:2], H, W), padding, mode)
        if dy != expected:
            raise ShapeError(f"{self.name}: dy has shape {dy}, images of {H}x{W} give {expected}")
        return (*dy[:2], H, W)

    def numpy(self, dy: Ndarray, *, padding: Sides, mode: str, value: float, image_size: Pair) -> Ndarray:
        H, W = image_size
        top, bottom, left, right = padding
        constant = {"constant_values": -1} if mode == "constant" else {}
        # for each place of the padded image, the pixel h W + v that it shows; -1 for none
        pixels, widths = np.arange(H * W).reshape(H, W), ((top, bottom), (left, right))
        shown = np.pad(pixels, widths, MODES[mode], **constant)  # type: ignore[call-overload]
        dx = np.zeros((*dy.shape[:2], H * W), dy.dtype)
        flat = dy.reshape(*dy.shape[:2], -1)
        for place, pixel in enumerate(shown.ravel()):
            if pixel >= 0:
                dx[..., pixel] += flat[..., place]
        return dx.reshape(*dy.shape[:2], H, W)

    def vjp(
        self, g: Tensor, dx: Tensor, dy: Tensor, *, padding: Sides, mode: str, value: float, image_size: Pair
    ) -> tuple[Tensor, ...]:
        return (pad(g, padding=padding, mode=mode),)

    def kernel(self, dx: Array, dy: Array, *, padding: Sides, mode: str, value: float, image_size: Pair) -> None:
        (H, W), counts = image_size, rows_and_columns(dy.shape)
        # several places may show a pixel, so a thread has a whole image
        for (n,) in parallel(dx.shape[0]):
            zero_image(dx, n)
            for p, q in loops(*counts):
                h, row = source(p, padding[0], H, mode)
                v, column = source(q, padding[2], W, mode)
                for c, width in channel_vectors(dx):
                    value_shown: Scalar = dy.load((n, c, p, q), width)
                    if mode == "constant":
                        value_shown = where(splat(both(row, column), width), value_shown, 0.0)
                    add_at(dx, (n, c, h, v), value_shown, width)


pad, pad_grad = Pad(), PadGrad()
