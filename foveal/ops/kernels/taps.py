"""Which inputs an output reads, along one axis."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from foveal.kernel.lang import maximum, minimum


@dataclass(frozen=True)
class Taps:
    """One axis of a correlation: output `start + step * i` (i < count) reads, for tap t < taps, kernel position
    `kernel + kernel_step * t` and input position `origin + input_step * i + tap_step * t`.
    """

    start: int
    step: int
    count: int
    taps: int
    kernel: int
    kernel_step: int
    origin: int
    input_step: int
    tap_step: int

    @property
    def low(self) -> int:
        """The first input position read, which may lie in the padding; 0 where nothing is read."""
        return self.origin + min(0, self.tap_step * (self.taps - 1)) if self.taps else 0

    @property
    def high(self) -> int:
        last = self.origin + self.input_step * (self.count - 1)
        return last + max(0, self.tap_step * (self.taps - 1)) if self.taps else 0

    def trimmed(self, size: int) -> "Taps":
        """Without the taps at either end that meet nothing but padding, in an input of `size` positions."""
        reach = self.input_step * (self.count - 1)
        places = [self.origin + self.tap_step * t for t in range(self.taps)]
        meeting = [t for t, place in enumerate(places) if place < size and place + reach >= 0]
        if not meeting:
            return replace(self, taps=0, origin=0)
        first = meeting[0]
        return replace(
            self, taps=meeting[-1] - first + 1, kernel=self.kernel + self.kernel_step * first, origin=places[first]
        )

    def share(self, size: int) -> float:
        """The share of (output, tap) pairs that meet the input and not the padding."""
        meeting = sum(len(self.inside(i, size)) for i in range(self.count))
        return meeting / max(self.count * self.taps, 1)

    def inside(self, i: int, size: int) -> list[int]:
        """The taps of output i that meet an input of `size` positions."""
        at = self.origin + self.input_step * i
        return [t for t in range(self.taps) if 0 <= at + self.tap_step * t < size]

    @property
    def turned(self) -> "Taps":
        """Outputs and taps in each other's place."""
        return replace(self, count=self.taps, taps=self.count, input_step=self.tap_step, tap_step=self.input_step)

    def meeting(self, i: Any, size: int) -> tuple[Any, Any]:
        """(first, end) of the taps of output i, a traced value, that meet the input."""
        if not self.taps:
            return 0, 0
        at, step = i * self.input_step + self.origin, abs(self.tap_step)
        # how far tap 0 lies outside on the side the taps come from
        below = -at if self.tap_step > 0 else at - (size - 1)
        room = size - 1 - at if self.tap_step > 0 else at
        first = maximum(floor_division(below + step - 1, step, self, size), 0)
        end = minimum(floor_division(room, step, self, size) + 1, self.taps)
        return first, end


def floor_division(a: Any, by: int, taps: Taps, size: int) -> Any:
    """a // by, rounded down also where the position difference `a` is negative: the language divides without sign."""
    if by == 1:
        return a
    enough = size + abs(taps.low) + abs(taps.high) + by
    return (a + enough * by) // by - enough


def forward_taps(outputs: int, kernel: int, stride: int, before: int, dilation: int) -> list[Taps]:
    """A cross-correlation reads x[p u + r d - pad] for kernel position r."""
    return [Taps(0, 1, outputs, kernel, 0, 1, -before, stride, dilation)]


def gradient_taps(inputs: int, kernel: int, stride: int, before: int, dilation: int) -> list[Taps]:
    """The gradient in x at h sums dy[p] w[r] over p u + r d - pad = h.

    The positions h fall into u classes; in each a fixed set of r, evenly spaced, divides without remainder.
    """
    phases = []
    for phase in range(min(stride, inputs)):
        fitting = [r for r in range(kernel) if (phase + before - r * dilation) % stride == 0]
        count = -(-(inputs - phase) // stride)
        if not fitting:
            phases.append(Taps(phase, stride, count, 0, 0, 1, 0, 1, 0))
            continue
        gap = fitting[1] - fitting[0] if len(fitting) > 1 else 1
        origin = (phase + before - fitting[0] * dilation) // stride
        phases.append(Taps(phase, stride, count, len(fitting), fitting[0], gap, origin, 1, -(gap * dilation) // stride))
    return phases


Axes = tuple[tuple[Taps, ...], tuple[Taps, ...]]


def both_axes(
    taps: Callable[[int, int, int, int, int], list[Taps]],
    sizes: tuple[int, int],
    inputs: tuple[int, int],
    kernel: tuple[int, int],
    stride: Any,
    padding: Any,
    dilation: Any,
) -> Axes:
    """The taps along rows and along columns, without those that meet padding only."""
    rows, columns = (
        tuple(t.trimmed(inputs[a]) for t in taps(sizes[a], kernel[a], stride[a], padding[2 * a], dilation[a]))
        for a in (0, 1)
    )
    return rows, columns


def used_kernel(axes: Axes) -> tuple[Axes, tuple[int, int], tuple[int, int]]:
    """Axes with kernel positions counted from the first that is used; that position; how many there are from it on."""
    lows, sizes, moved = [], [], []
    for taps in axes:
        used = [t for t in taps if t.taps]
        low = min((t.kernel for t in used), default=0)
        high = max((t.kernel + t.kernel_step * (t.taps - 1) for t in used), default=low)
        lows.append(low)
        sizes.append(high - low + 1)
        moved.append(tuple(replace(t, kernel=t.kernel - low) if t.taps else t for t in taps))
    return (moved[0], moved[1]), (lows[0], lows[1]), (sizes[0], sizes[1])
