"""Matrix products."""

from typing import Any

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, loop, parallel, splat, var, vectors
from foveal.ops.kernels import gemm
from foveal.ops.op import Case, HasShape, Lowering, Operator, Tensor, Type
from foveal.ops.shape import permute
from foveal.strides import Ndarray, Shape
from foveal.view import View


class Matmul(Operator):
    """y[m,n] = sum_k a[m,k] b[k,n]; a is given as [k,m] if ta, b as [n,k] if tb

    a [m, k], b [k, n] -> y [m, n].

    ta, tb: a, or b, is given transposed. Nothing is copied for that.

    Raises ShapeError unless both are matrices whose k agree.
    """

    name, arity = "matmul", 2
    cases = (
        Case(((4, 5), (5, 3))),
        Case(((7, 20), (33, 20)), {"tb": True}),
        Case(((9, 30), (9, 17)), {"ta": True}),
        Case(((6, 1), (70, 6)), {"ta": True, "tb": True}),
        Case(((1, 64), (64, 10))),
        Case(((1, 70), (1030, 70)), {"tb": True}),
        Case(((7, 40), (90, 40)), {"tb": True}),
        Case(((2, 37), (37, 800))),
        Case(((30, 50), (50, 70))),
        Case(((40, 130), (37, 130)), {"tb": True}),
        Case(((300, 9), (9, 40))),
    )

    def normalise(self, a: HasShape, b: HasShape, *, ta: bool = False, tb: bool = False) -> dict[str, Any]:
        return {"ta": ta, "tb": tb}

    def shape(self, a: Shape, b: Shape, *, ta: bool, tb: bool) -> Shape:
        if len(a) != 2 or len(b) != 2:
            raise ShapeError(
                f"matmul: takes two matrices, got shapes {a} and {b}; flatten images to [N, features] first"
            )
        (m, k), (k2, n) = a[::-1] if ta else a, b[::-1] if tb else b
        if k != k2:
            raise ShapeError(
                f"matmul: {k} columns on the left meet {k2} rows on the right (shapes {a} and {b}); they have to be"
                f" equal"
            )
        return m, n

    def numpy(self, a: Ndarray, b: Ndarray, *, ta: bool, tb: bool) -> Ndarray:
        return (a.T if ta else a) @ (b.T if tb else b)

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor, *, ta: bool, tb: bool) -> tuple[Tensor, ...]:
        da = matmul(b, dy, ta=tb, tb=True) if ta else matmul(dy, b, tb=not tb)
        db = matmul(dy, a, ta=True, tb=ta) if tb else matmul(a, dy, ta=not ta)
        return da, db

    def flops(self, y: Type, a: Type, b: Type, *, ta: bool, tb: bool) -> int:
        return 2 * y.size * a.shape[0 if ta else 1]

    def kernel(self, y: Array, a: Array, b: Array, *, ta: bool, tb: bool) -> None:
        (m, n), k = y.shape, a.shape[0 if ta else 1]
        for i, j in parallel(m, n):
            acc = var()
            for p in loop(k):
                acc += (a[p, i] if ta else a[i, p]) * (b[j, p] if tb else b[p, j])
            y[i, j] = acc

    def lower(self, lowering: Lowering, y: View, a: View, b: View, *, ta: bool, tb: bool) -> None:
        a = a.permuted(1, 0) if ta else a
        b = b.permuted(1, 0) if tb else b
        gemm.lower(lowering, y, a, b)


class BatchMatmul(Operator):
    """y[l,m,n] = sum_k a[l,m,k] b[l,k,n]: a product for each l

    a [L, m, k], b [L, k, n] -> y [L, m, n]. Raises ShapeError for other shapes.
    """

    name, arity = "batch_matmul", 2
    cases = (Case(((3, 4, 5), (3, 5, 2))), Case(((2, 3, 9), (2, 9, 35))))

    def normalise(self, a: HasShape, b: HasShape) -> dict[str, Any]:
        return {}

    def shape(self, a: Shape, b: Shape) -> Shape:
        if len(a) != 3 or len(b) != 3 or a[0] != b[0] or a[2] != b[1]:
            raise ShapeError(
                f"{self.name}: takes as many matrices [m, k] as [k, n], [L, m, k] and [L, k, n]; got shapes {a} and {b}"
            )
        return a[0], a[1], b[2]

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return a @ b

    def vjp(self, dy: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        transposed = (0, 2, 1)
        return batch_matmul(dy, permute(b, order=transposed)), batch_matmul(permute(a, order=transposed), dy)

    def flops(self, y: Type, a: Type, b: Type) -> int:
        return 2 * y.size * a.shape[2]

    def kernel(self, y: Array, a: Array, b: Array) -> None:
        (L, m, n), k = y.shape, a.shape[2]
        # each row of each product, a vector of its columns at a time where they are neighbours in memory
        for product, i in parallel(L, m):
            for j, width in vectors(n, None if b.strides[2] == y.strides[2] == 1 else 1):
                total = var(0.0, width)
                for p in loop(k):
                    total.fma(splat(a[product, i, p], width), b.load((product, p, j), width))
                y.store((product, i, j), total, width)


class Linear(Operator):
    """y[n,o] = sum_i x[n,i] w[o,i]: a fully connected layer without bias, w as PyTorch stores it

    x [N, features], w [outputs, features] -> y [N, outputs]. Raises ShapeError where the features do not agree.
    """

    name, arity, composite = "linear", 2, True
    cases = (Case(((4, 5), (3, 5))), Case(((2, 40), (17, 40))))

    def normalise(self, x: HasShape, w: HasShape) -> dict[str, Any]:
        return {}

    def shape(self, x: Shape, w: Shape) -> Shape:
        if len(x) != 2:
            raise ShapeError(f"linear: x has shape {x}, it has to be [N, features]; put a Flatten layer before")
        if len(w) != 2:
            raise ShapeError(f"linear: the weight has shape {w}, it has to be [outputs, features]")
        if x[1] != w[1]:
            raise ShapeError(
                f"linear: x has {x[1]} features (shape {x}), the weight of shape {w} takes {w[-1]};"
                f" use Linear({x[1]}, {w[0]}), or change what comes before"
            )
        return x[0], w[0]

    def numpy(self, x: Ndarray, w: Ndarray) -> Ndarray:
        return x @ w.T

    def vjp(self, dy: Tensor, y: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return matmul(dy, w), matmul(dy, x, ta=True)

    def expand(self, x: Tensor, w: Tensor) -> Tensor:
        return matmul(x, w, tb=True)


matmul, batch_matmul, linear = Matmul(), BatchMatmul(), Linear()
