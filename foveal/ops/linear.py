"""Matrix products."""

from typing import Any

from foveal.errors import ShapeError
from foveal.kernel.lang import head, loop, parallel, var
from foveal.ops import nest
from foveal.ops.op import Case, Lowering, Ndarray, Operator, Shape, Type
from foveal.ops.tile import (
    accumulators,
    multiply_add,
    pack_panels,
    pieces,
    split,
    tile_for,
    unrolling,
)


class Matmul(Operator):
    """y[m,n] = sum_k a[m,k] b[k,n]; a is given as [k,m] if ta, b as [n,k] if tb"""

    name, arity = "matmul", 2
    cases = (
        Case(((4, 5), (5, 3))),
        Case(((7, 20), (33, 20)), {"tb": True}),
        Case(((9, 30), (9, 17)), {"ta": True}),
        Case(((6, 1), (70, 6)), {"ta": True, "tb": True}),
        Case(((1, 64), (64, 10))),
    )

    def normalise(self, a: Any, b: Any, *, ta: bool = False, tb: bool = False) -> dict[str, Any]:
        return {"ta": ta, "tb": tb}

    def shape(self, a: Shape, b: Shape, *, ta: bool, tb: bool) -> Shape:
        if len(a) != 2 or len(b) != 2:
            raise ShapeError(
                f"matmul: takes two matrices, got shapes {a} and {b}; flatten images to [N, features] first"
            )
        (m, k), (k2, n) = a[::-1] if ta else a, b[::-1] if tb else b
        if k != k2:
            raise ShapeError(
                f"matmul: {k} columns on the left meet {k2} rows on the right (shapes {a} and {b}); they have to be equal"
            )
        return m, n

    def numpy(self, a: Ndarray, b: Ndarray, *, ta: bool, tb: bool) -> Ndarray:
        return (a.T if ta else a) @ (b.T if tb else b)

    def vjp(self, dy: Any, y: Any, a: Any, b: Any, *, ta: bool, tb: bool) -> tuple[Any, ...]:
        da = matmul(b, dy, ta=tb, tb=True) if ta else matmul(dy, b, tb=not tb)
        db = matmul(dy, a, ta=True, tb=ta) if tb else matmul(a, dy, ta=not ta)
        return da, db

    def flops(self, y: Type, a: Type, b: Type, *, ta: bool, tb: bool) -> int:  # type: ignore[override]
        return 2 * y.size * a.shape[0 if ta else 1]

    def kernel(self, y: Any, a: Any, b: Any, *, ta: bool, tb: bool) -> None:
        (m, n), k = y.shape, a.shape[0 if ta else 1]
        for i, j in parallel(m, n):
            acc = var()
            for l in loop(k):  # noqa: E741
                acc += (a[l, i] if ta else a[i, l]) * (b[j, l] if tb else b[l, j])
            y[i, j] = acc

    def lower(self, to: Lowering, y: Any, a: Any, b: Any, *, ta: bool, tb: bool) -> None:
        a = a.permuted(1, 0) if ta else a
        b = b.permuted(1, 0) if tb else b
        (k, n), tile = b.shape, tile_for(b.shape[1])
        panels = to.scratch((1, -(-n // tile.columns), 1, 1, k, tile.columns))
        weights = b.permuted(1, 0).reshaped((1, n, k, 1, 1))
        to.call(pack_panels, [panels], [weights], columns=tile.columns)
        to.call(multiply_panels, [y], [a, panels])


def multiply_panels(y: Any, a: Any, panels: Any) -> None:
    """y[m, n] = sum_k a[m, k] panels[., n // columns, ., ., k, n % columns], a register tile of y at a time."""
    m, n = y.shape
    k, tile = a.shape[1], tile_for(n)
    step = unrolling(k)

    def compute(row: Any, rows: int, b: Any, valid: int) -> None:
        widths = pieces(valid, tile.width)
        acc = accumulators(rows, widths, tile.width)
        for l in loop(k // step):  # noqa: E741
            for u in range(step):
                at = l * step + u
                w = [panels.load((0, b, 0, 0, at, start), tile.width) for start, _ in widths]
                multiply_add(acc, [a[row + i, at] for i in range(rows)], w)
        for (i, v), total in acc.items():
            start, width = widths[v]
            nest.store(y, (row + i, b * tile.columns + start), head(total, width), width)

    full, tail = divmod(n, tile.columns)
    first = 0
    for rows, count in split(m, tile.rows):
        if full:
            for block, b in parallel(count, full):
                compute(block * rows + first, rows, b, tile.columns)
        if tail:
            for (block,) in parallel(count):
                compute(block * rows + first, rows, full, tail)
        first += rows * count


class Linear(Operator):
    """y[n,o] = sum_i x[n,i] w[o,i]: a fully connected layer without bias, w as PyTorch stores it"""

    name, arity, composite = "linear", 2, True
    cases = (Case(((4, 5), (3, 5))), Case(((2, 40), (17, 40))))

    def shape(self, x: Shape, w: Shape) -> Shape:
        if len(x) != 2:
            raise ShapeError(
                f"linear: x has shape {x}, it has to be [N, features]; put a Flatten layer before"
            )
        if len(w) != 2 or x[1] != w[1]:
            raise ShapeError(
                f"linear: x has {x[1]} features (shape {x}), the weight of shape {w} takes {w[-1]};"
                f" use Linear({x[1]}, {w[0]}), or change what comes before"
            )
        return x[0], w[0]

    def numpy(self, x: Ndarray, w: Ndarray) -> Ndarray:
        return x @ w.T

    def vjp(self, dy: Any, y: Any, x: Any, w: Any) -> tuple[Any, ...]:
        return matmul(dy, w), matmul(dy, x, ta=True)

    def expand(self, x: Any, w: Any) -> Any:
        return matmul(x, w, tb=True)


matmul, linear = Matmul(), Linear()
