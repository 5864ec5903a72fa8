"""What a value reads of the image along one axis: sets of positions, and the line that describes them.

There are two answers for each axis of the image.

The exact one (`Reach.masks`) is a set of positions of the image for each position of the value. It accounts for
padding, dilation and positions that strides skip. For a network with branches it is the union over the branches along
that axis.

The other one (`Line`) is that of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
(Distill 2019), section 2: position i reads `size` positions from `start + stride * i` on, as if the padding were part
of the image. After a window of k taps with stride u, dilation d and p positions of padding before,

    start' = start - p stride,  size' = size + (k - 1) d stride,  stride' = stride u.

Where values are repeated or spread out (transposed convolution) the line is a bound of what is read, and its numbers
are fractions. Branches whose strides differ have no such line (section 3, "alignment issues"); then only the exact sets
are known. A value whose elements all read the same, as after a fully connected layer or a global pooling, has no
position to count padding from: its line is what it reads of the image itself, from the first to the last position.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import ceil, floor
from operator import or_

Number = int | Fraction


@dataclass(frozen=True)
class Line:
    """Position i reads `size` positions of the image from start + stride * i on."""

    start: Number
    size: Number
    stride: Number

    def spanning(self, count: int) -> "Line":
        """Return the line of `count` neighbouring positions taken together."""
        return replace(self, size=self.size + (count - 1) * self.stride)

    @property
    def largest(self) -> int:
        """The most whole positions of the image that one position can read."""
        # Where the numbers are fractions, positions begin at different distances from a whole one, again and again.
        starts = [self.start + i * self.stride for i in range(Fraction(self.stride).denominator)]
        return max(floor(start + self.size - 1) - ceil(start) + 1 for start in starts)


@dataclass(frozen=True)
class Reach:
    """What a value reads along one axis of the image."""

    # The value's own axis that runs along the image's axis; None if all of its elements read the same.
    axis: int | None
    # For each position on `axis` the set of positions of the image, as the bits of an int; one set if axis is None.
    masks: tuple[int, ...]
    # The line that describes the sets; None if there is none.
    line: Line | None

    @property
    def union(self) -> int:
        """The positions of the image that any position reads."""
        return reduce(or_, self.masks, 0)

    def collapsed(self) -> "Reach":
        """Return the reach of all positions taken together."""
        return self if self.axis is None else same_for_all(self.union)

    def on(self, axis: int | None) -> "Reach":
        """Return the same reach along another axis of the value."""
        return replace(self, axis=axis)


def same_for_all(positions: int) -> Reach:
    """Return the reach of a value whose elements all read these positions of the image, the bits of an int."""
    first = (positions & -positions).bit_length() - 1
    return Reach(None, (positions,), Line(first, positions.bit_length() - first, 0) if positions else None)


def image_reach(size: int, axis: int) -> Reach:
    """Return the reach of the image itself: each position reads itself."""
    return Reach(axis, tuple(1 << i for i in range(size)), Line(0, 1, 1))


def joined(reaches: Sequence[Reach]) -> Reach:
    """Return the union of several reaches, position by position.

    If they run along different axes of the value, or along none, they are collapsed first. A reach of one position
    is broadcast.
    """
    axes = {r.axis for r in reaches if r.axis is not None}
    if len(axes) != 1:
        return same_for_all(reduce(or_, (r.union for r in reaches)))
    axis = axes.pop()
    count = max(len(r.masks) for r in reaches if r.axis is not None)
    masks = [r.masks * (count // len(r.masks)) for r in reaches]
    return Reach(axis, tuple(reduce(or_, sets) for sets in zip(*masks, strict=True)), joined_lines(reaches))


def joined_lines(reaches: Sequence[Reach]) -> Line | None:
    """Return the line of a union; None if an operand has none, or if axes or strides differ."""
    lines = [r.line for r in reaches]
    if len({r.axis for r in reaches}) > 1 or None in lines:
        return None
    known = [line for line in lines if line is not None]
    if len({line.stride for line in known}) > 1:
        return None
    start = min(line.start for line in known)
    return Line(start, max(line.start + line.size for line in known) - start, known[0].stride)
