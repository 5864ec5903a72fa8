"""Type: what is known of a value before it is computed. Case: sample inputs of an operator."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from foveal.strides import Ndarray, Shape

# the names of the dtypes that programs take: NumPy puts a name together each time it is asked for one. float64 becomes
# float32 when it is copied into a program's memory
NAMES = {np.dtype(name): name for name in ("float32", "int32")} | {np.dtype("float64"): "float32"}


class Type(NamedTuple):
    """Shape and dtype of a value. A tuple: graphs look up thousands of them."""

    shape: Shape
    dtype: str = "float32"

    @classmethod
    def of(cls, array: Ndarray) -> "Type":
        """Return the type of an array that programs take."""
        return cls(array.shape, NAMES[array.dtype])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __str__(self) -> str:
        short = {"float32": "f32", "int32": "i32"}[self.dtype]
        return f"{short}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Case:
    """Sample inputs for the generic tests: their shapes, the attributes, and how each input is drawn.

    attributes: as a caller writes them. draw: per input a function (generator, shape) -> array; standard normal numbers
    where there is none. smooth: True if finite differences are meaningful at these inputs.
    """

    shapes: tuple[Shape, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    draw: dict[int, Callable[[np.random.Generator, Shape], Ndarray]] = field(default_factory=dict)
    smooth: bool = True

    def arrays(self, seed: int) -> list[Ndarray]:
        """Fresh random inputs, float32 or integer."""
        rng = np.random.default_rng(seed)
        arrays = []
        for position, shape in enumerate(self.shapes):
            drawn = self.draw[position](rng, shape) if position in self.draw else rng.standard_normal(shape)
            arrays.append(drawn.astype(np.float32 if drawn.dtype.kind == "f" else np.int32))
        return arrays
