"""What a summary holds: a row per layer, its receptive field, and what its windows never read."""

from dataclasses import dataclass, field
from functools import reduce
from math import ceil, prod
from operator import or_
from typing import Any

from foveal.errors import ShapeError
from foveal.explain.costs import BYTES, LinearCost, Memory
from foveal.explain.fields import Line
from foveal.explain.windows import Mend, Window
from foveal.strides import Shape


@dataclass(frozen=True)
class Extent:
    """What one value reads along one axis of the image, which has `image` positions.

    line: start, size and stride (fields.py); None where branches disagree. masks: the exact sets. per_position: False
    where
    the value has no axis along the image any more, so that all of it reads the same.
    """

    image: int
    line: Line | None
    masks: tuple[int, ...]
    per_position: bool

    @property
    def size(self) -> int:
        """Positions from the first to the last that one output reads: of the line, else the widest there is."""
        if self.line is not None:
            return ceil(self.line.size)
        return max(mask.bit_length() - ((mask & -mask) - 1).bit_length() if mask else 0 for mask in self.masks)

    @property
    def centre(self) -> float | None:
        """Of the first output's field, in the image's positions."""
        line = self.line
        return None if line is None else float(line.start + (line.size - 1) / 2)

    @property
    def covered(self) -> int:
        """How many positions of the image any output reads."""
        return self.image - len(self.unread())

    def unread(self) -> list[int]:
        """The positions of the image that no output reads."""
        union = reduce(or_, self.masks, 0)
        return [i for i in range(self.image) if not union >> i & 1]

    def reads(self, position: int) -> list[int]:
        """The positions of the image that the output at `position` reads."""
        mask = self.masks[position if self.per_position else 0]
        return [i for i in range(self.image) if mask >> i & 1]


@dataclass(frozen=True)
class Unread:
    """Rows and columns of its input that a layer's windows never touch, by axis (2 rows, 3 columns), and what mends it.

    elsewhere: whether another layer reads them.
    """

    operator: str
    windows: tuple[Window, ...]
    positions: tuple[tuple[int, ...], ...]
    elsewhere: bool
    mends: tuple[Mend, ...]


@dataclass(frozen=True)
class Row:
    """A layer, or an operator that a module calls itself.

    Sums run over everything inside, `parameters` less what an earlier row has counted (shared layers). field: per axis
    of
    the image. dense: the same outputs from the same inputs by a fully connected layer.
    """

    name: str
    kind: str
    depth: int
    holds: bool  # whether rows of its parts follow
    shape: Shape
    parameters: int
    trainable: int
    formula: str
    buffers: int
    macs: int
    macs_formula: str | None
    field: tuple[Extent, ...]
    unread: tuple[Unread, ...]
    dense: LinearCost | None
    shared: bool = False

    @property
    def output_bytes(self) -> int:
        return BYTES * prod(self.shape)


@dataclass(frozen=True)
class Summary:
    """All rows in the order of the computation, containers before their parts; `str` of it is a table."""

    model: str
    input: Shape
    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    buffers: int
    macs: int
    activation_bytes: int  # of every value that is made, as if all were kept
    memory: Memory | None
    unknown: tuple[str, ...]  # operators whose field is not known, taken to read everything
    unused: tuple[str, ...]  # layers that forward does not call
    field: tuple[Extent, ...] = field(default=())

    @property
    def frozen(self) -> int:
        return self.parameters - self.trainable

    @property
    def parameter_bytes(self) -> int:
        return BYTES * self.parameters

    def row(self, name: str) -> Row:
        """The first row of that name."""
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            known = ", ".join(dict.fromkeys(row.name for row in self.rows if row.name))
            raise ShapeError(f"{self.model} has no layer {name!r}; it has {known}")
        return found

    def __str__(self) -> str:
        from foveal.explain.output import text

        return text(self)

    def table(self, depth: int | None = None, width: int = 120) -> str:
        """The table with layers nested at most `depth` deep."""
        from foveal.explain.output import text

        return text(self, depth, width)

    def as_json(self) -> dict[str, Any]:
        from foveal.explain.output import record

        return record(self)
