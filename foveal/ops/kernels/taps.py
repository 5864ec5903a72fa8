"""Which inputs an output of a convolution reads, along one axis and along both.

A convolution, its gradient in x and a pooling differ only in this map: `forward_taps` and `gradient_taps` write it down
as `Taps`, and one loop nest serves them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from foveal.kernel.lang import Index, maximum, minimum
from foveal.ops.kernels.register_tile import ceil_div
from foveal.ops.window import Pair


@dataclass(frozen=True)
class Taps:
    """One axis of a cross-correlation, or one phase of it.

    Output `start + step * i` (i < count) reads, for each tap t < taps, the window position `kernel + kernel_step * t`
    and the input position `origin + input_step * i + tap_step * t`. Input positions outside of the image are padding.
    ("kernel" in these names is the window of R x S weights, never a compiled function.)
    """

    #: position of output 0 of this phase, and the distance between its outputs
    start: int
    step: int
    #: number of outputs of this phase
    count: int
    #: number of window positions that each output reads
    taps: int
    #: window position of tap 0, and the distance between taps
    kernel: int
    kernel_step: int
    #: input position of output 0 at tap 0, and how far it moves per output and per tap
    origin: int
    input_step: int
    tap_step: int

    def output_position(self, i: Index) -> Index:
        """Where output i of this phase lies among the outputs of all phases."""
        return i * self.step + self.start

    def input_position(self, i: Index) -> Index:
        """Where output i reads the input at tap 0; tap t reads `tap_step * t` further on."""
        return i * self.input_step + self.origin

    def kernel_position(self, t: Index) -> Index:
        """The position of tap t in the window."""
        return t * self.kernel_step + self.kernel

    @property
    def low(self) -> int:
        """The first input position that is read, which may lie in the padding; 0 where nothing is read."""
        return self.origin + min(0, self.tap_step * (self.taps - 1)) if self.taps else 0

    @property
    def high(self) -> int:
        """The last input position that is read, which may lie in the padding; 0 where nothing is read."""
        last = self.origin + self.input_step * (self.count - 1)
        return last + max(0, self.tap_step * (self.taps - 1)) if self.taps else 0

    def leaves(self, size: int) -> bool:
        """True if some output reads padding beside an input of `size` positions."""
        return self.low < 0 or self.high >= size

    def trimmed(self, size: int) -> "Taps":
        """The same without the taps at either end that meet only padding, in an input of `size` positions."""
        travel = self.input_step * (self.count - 1)
        positions = [self.origin + self.tap_step * t for t in range(self.taps)]
        meeting = [t for t, position in enumerate(positions) if position < size and position + travel >= 0]
        if not meeting:
            return replace(self, taps=0, origin=0)
        first = meeting[0]
        return replace(
            self, taps=meeting[-1] - first + 1, kernel=self.kernel + self.kernel_step * first, origin=positions[first]
        )

    def valid(self, i: int, size: int) -> list[int]:
        """The taps of output i that meet an input of `size` positions and not its padding."""
        position = self.origin + self.input_step * i
        return [t for t in range(self.taps) if 0 <= position + self.tap_step * t < size]

    def valid_share(self, size: int) -> float:
        """The share of (output, tap) pairs that meet an input of `size` positions and not its padding."""
        meeting = sum(len(self.valid(i, size)) for i in range(self.count))
        return meeting / max(self.count * self.taps, 1)

    def valid_range(self, i: Index, size: int) -> tuple[Index, Index]:
        """(first, end) of the taps of output i that meet the input: `valid` for an output known only at run time.

        The taps that meet the input are neighbours, since their positions are evenly spaced.
        """
        if not self.taps:
            return 0, 0
        position, step = self.input_position(i), abs(self.tap_step)
        # the number of positions that tap 0 lies outside of the input, on the side that the taps come from
        outside = -position if self.tap_step > 0 else position - (size - 1)
        # the number of positions from tap 0 to the last one of the input, in the direction in which the taps go
        room = size - 1 - position if self.tap_step > 0 else position
        first = maximum(self.floor_division(outside + step - 1, step, size), 0)
        end = minimum(self.floor_division(room, step, size) + 1, self.taps)
        return first, end

    def floor_division(self, difference: Index, divisor: int, size: int) -> Index:
        """difference // divisor, rounded down, for a difference of two positions, which may be negative.

        The kernel language divides unsigned numbers. So a multiple of the divisor that is larger than every difference
        is added before, and its quotient subtracted after the division.
        """
        if divisor == 1:
            return difference
        shift = size + abs(self.low) + abs(self.high) + divisor
        return (difference + shift * divisor) // divisor - shift

    @property
    def swapped(self) -> "Taps":
        """The same map with the roles of outputs and taps exchanged, as a gradient in the weights needs it."""
        return replace(self, count=self.taps, taps=self.count, input_step=self.tap_step, tap_step=self.input_step)


# The phases along rows, and those along columns; every pair of them is a loop nest of its own.
Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]


def forward_taps(outputs: int, kernel: int, stride: int, before: int, dilation: int) -> list[Taps]:
    """The one phase of a cross-correlation: y[p] reads x[p u + r d - before] at window position r.

    outputs, kernel: the numbers of outputs and of window positions. stride, dilation: u, d. before: the padding there.
    """
    return [Taps(0, 1, outputs, kernel, 0, 1, -before, stride, dilation)]


def gradient_taps(inputs: int, kernel: int, stride: int, before: int, dilation: int) -> list[Taps]:
    """The phases of the gradient in x: dx[h] is the sum of dy[p] w[r] over p u + r d - before = h.

    The positions h fall into u phases by h mod u. In each phase a fixed set of window positions r, evenly spaced,
    makes h + before - r d divisible by u, so each phase is a cross-correlation with stride 1. Hence no product with an
    inserted zero is computed.

    inputs: the number of positions h. The other arguments are those of `forward_taps`.
    """
    phases = []
    for phase in range(min(stride, inputs)):
        fitting = [r for r in range(kernel) if (phase + before - r * dilation) % stride == 0]
        count = ceil_div(inputs - phase, stride)
        if not fitting:
            # nothing reaches these positions: their gradient is 0
            phases.append(Taps(phase, stride, count, 0, 0, 1, 0, 1, 0))
            continue
        gap = fitting[1] - fitting[0] if len(fitting) > 1 else 1
        origin = (phase + before - fitting[0] * dilation) // stride
        phases.append(Taps(phase, stride, count, len(fitting), fitting[0], gap, origin, 1, -(gap * dilation) // stride))
    return phases


def both_axes(
    taps: Callable[[int, int, int, int, int], list[Taps]],
    sizes: Pair,
    inputs: Pair,
    kernel: Pair,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Axes:
    """The phases along rows and along columns, without the taps that meet only padding.

    taps: forward_taps or gradient_taps. sizes, inputs: rows and columns of the result and of what is read.
    padding: top, bottom, left, right.
    """
    rows, columns = (
        tuple(t.trimmed(inputs[a]) for t in taps(sizes[a], kernel[a], stride[a], padding[2 * a], dilation[a]))
        for a in (0, 1)
    )
    return rows, columns


def used_kernel(axes: Axes) -> tuple[Axes, Pair, Pair]:
    """The part of the R x S window that some tap reads, so that only this part is packed.

    Returns the axes with window positions counted from that part's first row and column, this first (row, column), and
    the part's (rows, columns).
    """
    firsts, sizes, shifted = [], [], []
    for phases in axes:
        used = [t for t in phases if t.taps]
        low = min((t.kernel for t in used), default=0)
        high = max((t.kernel + t.kernel_step * (t.taps - 1) for t in used), default=low)
        firsts.append(low)
        sizes.append(high - low + 1)
        shifted.append(tuple(replace(t, kernel=t.kernel - low) if t.taps else t for t in phases))
    return (shifted[0], shifted[1]), (firsts[0], firsts[1]), (sizes[0], sizes[1])


def rows_read(phases: tuple[Taps, ...]) -> int:
    """The number of input rows that one row of outputs reads, the rows of all phases taken together."""
    used = [t for t in phases if t.taps]
    low = min((t.low for t in used), default=0)
    return max((t.high - t.input_step * (t.count - 1) for t in used), default=0) - low + 1
