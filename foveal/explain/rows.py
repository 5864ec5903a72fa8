"""What is known of a model layer by layer: a row per layer, its receptive field, and what its windows never read."""

from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import or_

from foveal.errors import ShapeError
from foveal.explain.costs import BYTES, LinearCost, Memory
from foveal.explain.model import near
from foveal.explain.reach import Line
from foveal.explain.windows import AxisWindow, Fix
from foveal.strides import Shape


@dataclass(frozen=True)
class Extent:
    """What one value reads along one axis of the image: its receptive field there."""

    # Positions of the image along the axis.
    image: int
    # Start, size and stride of the field (see fields.py); None if branches disagree.
    line: Line | None
    # The exact sets of positions, as the bits of an int, for each position of the value.
    masks: tuple[int, ...]
    # False if no axis of the value runs along the image's any more, so that all of it reads the same.
    per_position: bool

    @property
    def size(self) -> int:
        """Positions from the first to the last that one output reads: the line's, else the largest of all outputs."""
        if self.line is not None:
            return self.line.largest
        return max(mask.bit_length() - ((mask & -mask) - 1).bit_length() if mask else 0 for mask in self.masks)

    @property
    def centre(self) -> float | None:
        """The centre of the first output's field, in positions of the image; None if there is no line."""
        line = self.line
        return None if line is None else float(line.start + (line.size - 1) / 2)

    @property
    def covered(self) -> int:
        """The number of positions of the image that any output reads."""
        return self.image - len(self.unread())

    def unread(self) -> list[int]:
        """Return the positions of the image that no output reads."""
        union = reduce(or_, self.masks, 0)
        return [i for i in range(self.image) if not union >> i & 1]

    def reads(self, position: int) -> list[int]:
        """Return the positions of the image that the output at `position` reads."""
        mask = self.masks[position if self.per_position else 0]
        return [i for i in range(self.image) if mask >> i & 1]


@dataclass(frozen=True)
class Unread:
    """Rows and columns of its input that a layer's windows never touch."""

    # The operator's name.
    operator: str
    # Windows and unread positions, one per axis: rows, then columns.
    windows: tuple[AxisWindow, ...]
    positions: tuple[tuple[int, ...], ...]
    # True if another layer reads these positions.
    elsewhere: bool
    # Changes after which everything is read.
    fixes: tuple[Fix, ...]


@dataclass(frozen=True)
class Row:
    """A layer, or an operator that a module calls itself. Sums run over everything inside of the layer."""

    # The dotted name, and the class of the layer or the name of the operator.
    name: str
    kind: str
    # How deep the layer is nested.
    depth: int
    # True if rows of its parts follow.
    holds: bool
    # Of its output, with the batch.
    shape: Shape
    # Numbers in parameters, without those that an earlier row has counted (shared layers); how many of them are
    # trained; and the expression that gives `parameters`.
    parameters: int
    trainable: int
    formula: str
    # Numbers in buffers, such as running statistics.
    buffers: int
    # Multiply-adds, and the expression that gives them if one operator does them all.
    macs: int
    macs_formula: str | None
    # The output's receptive field, per axis of the image.
    field: tuple[Extent, ...]
    unread: tuple[Unread, ...]
    # The same outputs from the same inputs by a fully connected layer.
    dense: LinearCost | None
    # True if all of its parameters are counted in earlier rows.
    shared: bool = False

    @property
    def output_bytes(self) -> int:
        """Bytes of the output."""
        return BYTES * prod(self.shape)


@dataclass(frozen=True)
class Rows:
    """All rows in the order of the computation, containers before their parts, and the totals."""

    # The class of the model, and the shape of the batch.
    model: str
    input: Shape
    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    buffers: int
    macs: int
    # Bytes of all values that are computed, as if all were kept.
    activation_bytes: int
    # What a program will hold at once; None if it was not planned.
    memory: Memory | None
    # Operators without a rule for receptive fields; they are assumed to read everything.
    unknown: tuple[str, ...]
    # Layers that forward does not call.
    unused: tuple[str, ...]
    # The receptive field of the model's output, per axis of the image.
    field: tuple[Extent, ...] = ()

    @property
    def frozen(self) -> int:
        """Numbers in parameters that are not trained."""
        return self.parameters - self.trainable

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters."""
        return BYTES * self.parameters

    def row(self, name: str) -> Row:
        """Return the first row of that name. Raises ShapeError with the names near it if there is none."""
        named = next((row for row in self.rows if row.name == name), None)
        if named is None:
            raise ShapeError(f"{self.model} has no layer {name!r}; {near(name, (row.name for row in self.rows))}")
        return named
