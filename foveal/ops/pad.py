"""Images with a border: of a constant, mirrored, repeated or wrapped around."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import loop, loops, parallel, splat, vectors, where
from foveal.ops.op import Case, Operator
from foveal.ops.window import sides
from foveal.strides import Ndarray, Shape

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # NumPy's names


class Padding(Operator):
    """What both share. padding: int, (rows, columns) or (top, bottom, left, right); value: of mode "constant"."""

    arity = 1

    def normalise(
        self, x: Any, *, padding: Any, mode: str = "constant", value: float = 0.0, **more: Any
    ) -> dict[str, Any]:
        if mode not in MODES:
            raise ShapeError(f"{self.name}: mode {mode!r} is not known; choose one of {', '.join(MODES)}")
        given = sides(padding, f"{self.name}: padding")
        if min(given) < 0:
            raise ShapeError(f"{self.name}: padding {given} has to be 0 or more")
        return {"padding": given, "mode": mode, "value": float(value), **more}

    def padded(self, x: Shape, padding: Sides, mode: str) -> Shape:
        if len(x) != 4:
            raise ShapeError(f"{self.name}: takes images [N, C, H, W], got shape {x}")
        top, bottom, left, right = padding
        for word, n, most in (("rows", x[2], max(top, bottom)), ("columns", x[3], max(left, right))):
            limit = {"reflect": n - 1, "circular": n}.get(mode, most)
            if most > limit or (n == 0 and mode == "replicate"):
                raise ShapeError(
                    f"{self.name}: {mode} padding of {most} {word} needs an image of at least"
                    f" {most + (mode == 'reflect')}, it has {n} (shape {x}, padding {padding}); use less padding, or"
                    f" mode replicate or constant"
                )
        return (*x[:2], x[2] + top + bottom, x[3] + left + right)


def source(p: Any, before: int, n: int, mode: str) -> tuple[Any, Any]:
    """The input position, of n, that output position p shows, and whether there is one."""
    i = p - before
    if mode == "constant":
        valid = (i >= 0) & (i < n)
        return where(valid, i, 0), valid
    if mode == "circular":
        i = where(i < 0, i + n, i)
        return where(i >= n, i - n, i), True
    i = where(i < 0, 0 - i if mode == "reflect" else 0, i)
    return where(i >= n, 2 * (n - 1) - i if mode == "reflect" else n - 1, i), True


def spans(y: Any) -> Any:
    """(channel, lanes) over the channels of y, which are neighbours in memory, or one by one where they are not."""
    yield from vectors(y.shape[1], None if y.strides[1] == 1 else 1)


class Pad(Padding):
    """y[n,c,p,q] = x[n,c,i(p),j(q)] with i and j mirrored (reflect), clamped (replicate) or taken modulo (circular)

    mode "constant": `value` outside of the image.
    """

    name = "pad"
    cases = (
        Case(((2, 3, 4, 5),), {"padding": (1, 2, 0, 3), "value": 0.5}),
        Case(((1, 18, 4, 3),), {"padding": (3, 1, 2, 1), "mode": "reflect"}),
        Case(((2, 3, 2, 3),), {"padding": (0, 4, 3, 1), "mode": "replicate"}),
        Case(((2, 3, 3, 4),), {"padding": (3, 1, 2, 4), "mode": "circular"}),
    )

    def shape(self, x: Shape, *, padding: Sides, mode: str, value: float) -> Shape:
        return self.padded(x, padding, mode)

    def numpy(self, x: Ndarray, *, padding: Sides, mode: str, value: float) -> Ndarray:
        top, bottom, left, right = padding
        how = {"constant_values": value} if mode == "constant" else {}
        widths = ((0, 0), (0, 0), (top, bottom), (left, right))
        return np.asarray(np.pad(x, widths, MODES[mode], **how))  # type: ignore[call-overload]

    def vjp(self, dy: Any, y: Any, x: Any, *, padding: Sides, mode: str, value: float) -> tuple[Any, ...]:
        return (pad_grad(dy, padding=padding, mode=mode, image=x.shape[2:]),)

    def kernel(self, y: Any, x: Any, *, padding: Sides, mode: str, value: float) -> None:
        (N, _, P, Q), (H, W) = y.shape, x.shape[2:]
        for n, p in parallel(N, P):
            h, row = source(p, padding[0], H, mode)
            for q in loop(Q):
                v, column = source(q, padding[2], W, mode)
                for c, width in spans(y):
                    shown = x.load((n, c, h, v), width)
                    if mode == "constant":
                        shown = where(splat(row & column, width), shown, value)
                    y.store((n, c, p, q), shown, width)


class PadGrad(Padding):
    """dx[n,c,h,v] = sum of dy[n,c,p,q] over the places that show (h, v); `image` is x's (H, W)"""

    name = "pad_grad"
    cases = (
        Case(((2, 3, 7, 8),), {"padding": (1, 2, 0, 3), "image": (4, 5)}),
        Case(((1, 18, 8, 6),), {"padding": (3, 1, 2, 1), "mode": "reflect", "image": (4, 3)}),
        Case(((2, 3, 6, 7),), {"padding": (0, 4, 3, 1), "mode": "replicate", "image": (2, 3)}),
        Case(((2, 3, 7, 10),), {"padding": (3, 1, 2, 4), "mode": "circular", "image": (3, 4)}),
    )

    def shape(self, dy: Shape, *, padding: Sides, mode: str, value: float, image: Pair) -> Shape:
        expected = self.padded((*dy[:2], *image), padding, mode)
        if dy != expected:
            raise ShapeError(f"{self.name}: dy has shape {dy}, images of {image[0]}x{image[1]} give {expected}")
        return (*dy[:2], *image)

    def numpy(self, dy: Ndarray, *, padding: Sides, mode: str, value: float, image: Pair) -> Ndarray:
        top, bottom, left, right = padding
        how = {"constant_values": -1} if mode == "constant" else {}
        shown = np.pad(
            np.arange(image[0] * image[1]).reshape(image), ((top, bottom), (left, right)), MODES[mode], **how
        )  # type: ignore[call-overload]
        dx = np.zeros((*dy.shape[:2], image[0] * image[1]), dy.dtype)
        flat = dy.reshape(*dy.shape[:2], -1)
        for place, i in enumerate(shown.ravel()):
            if i >= 0:
                dx[..., i] += flat[..., place]
        return dx.reshape(*dy.shape[:2], *image)

    def vjp(self, g: Any, dx: Any, dy: Any, *, padding: Sides, mode: str, value: float, image: Pair) -> tuple[Any, ...]:
        return (pad(g, padding=padding, mode=mode),)

    def kernel(self, dx: Any, dy: Any, *, padding: Sides, mode: str, value: float, image: Pair) -> None:
        (N, _, H, W), (P, Q) = dx.shape, dy.shape[2:]
        for (n,) in parallel(N):
            for h, v in loops(H, W):
                for c, width in spans(dx):
                    dx.store((n, c, h, v), 0.0, width)
            for p, q in loops(P, Q):
                h, row = source(p, padding[0], H, mode)
                v, column = source(q, padding[2], W, mode)
                for c, width in spans(dx):
                    given = dy.load((n, c, p, q), width)
                    if mode == "constant":
                        given = where(splat(row & column, width), given, 0.0)
                    dx.store((n, c, h, v), dx.load((n, c, h, v), width) + given, width)


pad, pad_grad = Pad(), PadGrad()
