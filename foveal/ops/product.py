"""Products of arrays of any rank: NumPy's @ and einsum, made of matrix products."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveal.errors import ArgumentError, ShapeError
from foveal.ops.elementwise import multiply
from foveal.ops.matmul import batch_matmul, matmul
from foveal.ops.op import Case, HasShape, Operator, Tensor
from foveal.ops.parts import strided
from foveal.ops.reduce import broadcast_to, sum
from foveal.ops.shape import permute, reshape
from foveal.strides import Ndarray, Shape


class ArrayMatmul(Operator):
    """y = a @ b as in NumPy: products of matrices, of stacks of them, and of vectors

    a [..., m, k], b [..., k, n] -> y [..., m, n]; the axes in front broadcast. A vector is a row on the left and a
    column on the right, and its axis is gone in y: [k] @ [k] -> []. Raises ShapeError where sizes do not fit.
    """

    name, arity, composite = "array_matmul", 2, True
    cases = (
        Case(((4, 5), (5, 3))),
        Case(((3, 4, 5), (3, 5, 2))),
        Case(((2, 1, 4, 5), (3, 5, 2))),
        Case(((3, 4, 5), (5, 2))),
        Case(((5,), (5, 3))),
        Case(((4, 5), (5,))),
        Case(((5,), (5,))),
    )

    def normalise(self, a: HasShape, b: HasShape) -> dict[str, Any]:
        return {}

    def shape(self, a: Shape, b: Shape) -> Shape:
        if not a or not b:
            raise ShapeError(f"a @ b: shapes {a} and {b}; a number is multiplied by *")
        left, right = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
        try:
            front = np.broadcast_shapes(left[:-2], right[:-2])
        except ValueError:
            raise ShapeError(f"a @ b: the axes before the last two of shapes {a} and {b} do not broadcast") from None
        if left[-1] != right[-2]:
            raise ShapeError(
                f"a @ b: {left[-1]} columns meet {right[-2]} rows (shapes {a} and {b}); they have to be equal"
            )
        return (*front, *left[-2:-1][len(a) == 1 :], *right[-1:][len(b) == 1 :])

    def numpy(self, a: Ndarray, b: Ndarray) -> Ndarray:
        return np.asarray(a @ b)

    def expand(self, a: Tensor, b: Tensor) -> Tensor:
        shape = self.shape(a.shape, b.shape)
        a = a.unsqueeze(0) if len(a.shape) == 1 else a
        b = b.unsqueeze(1) if len(b.shape) == 1 else b
        (m, k), n = a.shape[-2:], b.shape[-1]
        if len(b.shape) == 2:
            # one matrix on the right: all rows on the left are those of one product
            return reshape(matmul(reshape(a, shape=(math.prod(a.shape[:-1]), k)), b), shape=shape)
        front = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a = reshape(broadcast_to(a, shape=(*front, m, k)), shape=(math.prod(front), m, k))
        b = reshape(broadcast_to(b, shape=(*front, k, n)), shape=(math.prod(front), k, n))
        return reshape(batch_matmul(a, b), shape=shape)


class Einsum(Operator):
    """y = sums of products, Einstein's way: einsum("nd,kd->nk", x, w) is y[n,k] = sum over d of x[n,d] w[k,d]

    A letter for each axis of each array, and of y after "->"; what y does not have is summed over, and a letter twice
    in one array is its diagonal. Without "->", y has the letters that occur once, in order. Equal letters are axes of
    equal size. Arrays are multiplied from left to right, two at a time, as matrix products. Raises ShapeError where the
    letters do not fit the arrays; an ellipsis is not taken.
    """

    name, composite = "einsum", True
    cases = (
        Case(((4, 5), (3, 5)), {"subscripts": "nd,kd->nk"}),
        Case(((2, 4, 5), (2, 5, 3)), {"subscripts": "lmk,lkn->lmn"}),
        Case(((2, 3, 4, 4), (6, 3)), {"subscripts": "nchw,kc->nkhw"}),
        Case(((4, 4),), {"subscripts": "ii->i"}),
        Case(((4, 4, 3),), {"subscripts": "iik"}),
        Case(((4,), (5,), (4, 5)), {"subscripts": "i,j,ij->"}),
        Case(((4, 5),), {"subscripts": "ij->ji"}),
        Case(((3, 4), (4,)), {"subscripts": "ij,j"}),
    )

    def apply(self, inputs: Sequence[object], attributes: Mapping[str, object]) -> Any:
        if inputs and isinstance(inputs[0], str):
            if "subscripts" in attributes:
                raise ArgumentError("einsum: the subscripts are given twice; call it as einsum(subscripts, *arrays)")
            inputs, attributes = inputs[1:], {**attributes, "subscripts": inputs[0]}
        return super().apply(inputs, attributes)

    def normalise(self, *arrays: HasShape | str, subscripts: str) -> dict[str, Any]:
        text = "".join(subscripts.split())
        if "." in text:
            raise ShapeError(f"einsum: {subscripts!r} has an ellipsis; write a letter for each axis")
        left, arrow, right = text.partition("->")
        letters = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
        right = right if arrow else letters
        if not all(c.isalpha() for c in left.replace(",", "") + right) or len(set(right)) != len(right):
            raise ShapeError(f"einsum: {subscripts!r} has to be letters, as in 'nd,kd->nk', each once after '->'")
        if wrong := sorted(set(right) - set(left)):
            raise ShapeError(f"einsum: {wrong[0]!r} stands after '->' in {subscripts!r}, and for no axis before it")
        return {"subscripts": f"{left}->{right}"}

    def shape(self, *shapes: Shape, subscripts: str) -> Shape:
        left, right = subscripts.split("->")
        terms = left.split(",")
        if len(terms) != len(shapes):
            raise ShapeError(f"einsum: {subscripts!r} names {len(terms)} arrays, {len(shapes)} are given")
        sizes: dict[str, int] = {}
        for term, shape in zip(terms, shapes, strict=True):
            if len(term) != len(shape):
                raise ShapeError(f"einsum: {term!r} names {len(term)} axes, the array has shape {shape}")
            for letter, n in zip(term, shape, strict=True):
                if sizes.setdefault(letter, n) != n:
                    raise ShapeError(
                        f"einsum: {letter!r} is {sizes[letter]} and {n} in {subscripts!r}, shapes {shapes}"
                    )
        return tuple(sizes[letter] for letter in right)

    def numpy(self, *arrays: Ndarray, subscripts: str) -> Ndarray:
        return np.asarray(np.einsum(subscripts, *arrays))

    def expand(self, *arrays: Tensor, subscripts: str) -> Tensor:
        left, right = subscripts.split("->")
        terms = [Term(x, letters).on_diagonals() for x, letters in zip(arrays, left.split(","), strict=True)]
        product = terms[0]
        for i, term in enumerate(terms[1:], 1):
            # letters that are still needed: those of y and of the arrays that come later
            product = product.times(term, set(right).union(*(later.letters for later in terms[i + 1 :])))
        return product.summed_to(set(right)).permuted(right).x


class Term:
    """An array with a letter for each of its axes."""

    def __init__(self, x: Tensor, letters: str) -> None:
        self.x, self.letters = x, letters

    def size(self, letters: str) -> int:
        return math.prod(self.x.shape[self.letters.index(letter)] for letter in letters)

    def permuted(self, letters: str) -> "Term":
        """The axes in the order of the letters."""
        if letters == self.letters:
            return self
        return Term(permute(self.x, order=tuple(self.letters.index(letter) for letter in letters)), letters)

    def on_diagonals(self) -> "Term":
        """One axis for each letter: of several, the diagonal."""
        term = self
        while twice := next((c for c in term.letters if term.letters.count(c) > 1), None):
            first = term.letters.index(twice)
            second = term.letters.index(twice, first + 1)
            rest = [a for a in range(len(term.letters)) if a not in (first, second)]
            x = permute(term.x, order=(first, second, *rest))
            n = x.shape[0]
            # [n n, ...], of which every (n + 1)-th is on the diagonal
            line = reshape(x, shape=(n * n, *x.shape[2:]))
            diagonal = strided(line, axis=0, start=0, step=n + 1, length=n)
            term = Term(diagonal, twice + "".join(term.letters[a] for a in rest))
        return term

    def summed_to(self, kept: set[str]) -> "Term":
        """Summed over the axes whose letters are not kept."""
        axes = tuple(a for a, letter in enumerate(self.letters) if letter not in kept)
        if not axes:
            return self
        return Term(sum(self.x, axes=axes), "".join(c for c in self.letters if c in kept))

    def times(self, other: "Term", kept: set[str]) -> "Term":
        """The product, summed over the letters that are not kept, as a matrix product for each shared kept letter."""
        a = self.summed_to(kept | set(other.letters))
        b = other.summed_to(kept | set(self.letters))
        batch = "".join(c for c in a.letters if c in b.letters and c in kept)
        summed = "".join(c for c in a.letters if c in b.letters and c not in kept)
        rows = "".join(c for c in a.letters if c not in b.letters)
        columns = "".join(c for c in b.letters if c not in a.letters)
        a, b = a.permuted(batch + rows + summed), b.permuted(batch + summed + columns)
        letters = batch + rows + columns
        shape = tuple((a if c in a.letters else b).size(c) for c in letters)
        L, m, k, n = a.size(batch), a.size(rows), a.size(summed), b.size(columns)
        if not summed:
            # nothing is summed: [batch, rows, 1] times [batch, 1, columns]
            product = multiply(reshape(a.x, shape=(L, m, 1)), reshape(b.x, shape=(L, 1, n)))
        elif not batch:
            product = matmul(reshape(a.x, shape=(m, k)), reshape(b.x, shape=(k, n)))
        else:
            product = batch_matmul(reshape(a.x, shape=(L, m, k)), reshape(b.x, shape=(L, k, n)))
        return Term(reshape(product, shape=shape), letters)


array_matmul, einsum = ArrayMatmul(), Einsum()
