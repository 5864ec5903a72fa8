"""A sliding window along one axis: what it reads, what it never reads, and which changes make it read everything."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from foveal.graph import Node

# An input is enlarged by less than this many positions: more than any layer's stride, and the next size that windows
# cover without a rest lies less than one stride above the present one.
MAX_ENLARGEMENT = 64
# More runs of positions than this are shortened, so that a line of text stays readable.
MAX_RUNS = 6


@dataclass(frozen=True)
class AxisWindow:
    """The window of a convolution or pooling along one axis of its input.

    Output p reads the positions p * stride + t * dilation - before for 0 <= t < taps, as far as they lie in the input.
    """

    # Positions of the input along the axis.
    length: int
    taps: int
    stride: int
    dilation: int = 1
    # Padding before the first and after the last position.
    before: int = 0
    after: int = 0

    @property
    def reach(self) -> int:
        """Positions from the first tap to the last, both included."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def outputs(self) -> int:
        """Number of positions of the output."""
        return max(0, (self.length + self.before + self.after - self.reach) // self.stride + 1)

    def reads(self, p: int) -> Iterator[int]:
        """The positions of the input that output p reads; those in the padding are left out."""
        start = p * self.stride - self.before
        return (i for i in range(start, start + self.reach, self.dilation) if 0 <= i < self.length)

    def unread(self) -> list[int]:
        """The positions of the input that no output reads."""
        if self.dilation == 1 and self.reach >= self.stride:
            # Neighbouring windows touch, so only positions after the last window can be left.
            end = (self.outputs - 1) * self.stride + self.reach - self.before if self.outputs else 0
            return list(range(max(end, 0), self.length))
        read = {i for p in range(self.outputs) for i in self.reads(p)}
        return [i for i in range(self.length) if i not in read]

    @property
    def reads_all(self) -> bool:
        """True if there is an output and every position of the input is read."""
        if self.dilation == 1 and self.reach >= self.stride:
            return self.outputs > 0 and not self.unread()
        # Gaps between windows show at the first positions, however long the input is.
        return self.outputs > 0 and all(map(self.is_read, range(self.length)))

    def is_read(self, i: int) -> bool:
        """True if an output reads position i: one that p = (i + before - t * dilation) / stride is for a tap t."""
        products = (i + self.before - t * self.dilation for t in range(self.taps))
        return any(n % self.stride == 0 and 0 <= n // self.stride < self.outputs for n in products)


def windows_of(node: Node) -> dict[int, AxisWindow]:
    """The windows that a convolution or pooling reads its first input with, by axis of [N, C, H, W]; else empty."""
    window = node.op.window(**node.attributes) if node.op is not None else None
    if window is None:
        return {}
    return {
        2 + a: AxisWindow(
            length=node.inputs[0].shape[2 + a],
            taps=window.size[a],
            stride=window.stride[a],
            dilation=window.dilation[a],
            before=window.padding[2 * a],
            after=window.padding[2 * a + 1],
        )
        for a in range(2)
    }


@dataclass(frozen=True)
class Fix:
    """A change of a layer, or of its input, after which every position is read."""

    # The change in words, with the output's shape.
    text: str
    # The windows after the change, one per axis.
    windows: tuple[AxisWindow, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        """The output's size along each axis after the change."""
        return tuple(w.outputs for w in self.windows)


Change = Callable[[AxisWindow], AxisWindow | None]


def first_that_reads_all(candidates: Iterator[AxisWindow]) -> AxisWindow | None:
    """The first window that reads every position; None if there is none."""
    return next((w for w in candidates if w.reads_all), None)


def pad_after(w: AxisWindow) -> AxisWindow | None:
    """The least padding to add at the end."""
    return first_that_reads_all(replace(w, after=w.after + i) for i in range(1, w.stride + w.reach))


def pad_both_sides(w: AxisWindow) -> AxisWindow | None:
    """The least padding to add at both ends alike."""
    added = range(1, w.stride + w.reach)
    return first_that_reads_all(replace(w, before=w.before + i, after=w.after + i) for i in added)


def smaller_stride(w: AxisWindow) -> AxisWindow | None:
    """The largest stride below the present one."""
    return first_that_reads_all(replace(w, stride=stride) for stride in range(w.stride - 1, 0, -1))


def larger_kernel(w: AxisWindow) -> AxisWindow | None:
    """The smallest kernel above the present one."""
    return first_that_reads_all(replace(w, taps=k) for k in range(w.taps + 1, w.length + w.before + w.after + 1))


def crop_input(w: AxisWindow) -> AxisWindow | None:
    """The largest input below the present one; cropping to less than half of it is not offered."""
    return first_that_reads_all(replace(w, length=n) for n in range(w.length - 1, w.length // 2, -1))


def enlarge_input(w: AxisWindow) -> AxisWindow | None:
    """The smallest input above the present one."""
    return first_that_reads_all(replace(w, length=n) for n in range(w.length + 1, w.length + MAX_ENLARGEMENT))


def dense_kernel(w: AxisWindow) -> AxisWindow | None:
    """A kernel without dilation that reaches as far as the dilated one, with the padding that it needs."""
    if w.dilation == 1:
        return None
    dense = replace(w, taps=w.reach, dilation=1)
    return dense if dense.reads_all else pad_after(dense)


def kernel_as_large_as_stride(w: AxisWindow) -> AxisWindow | None:
    """A kernel as large as the stride, which leaves no gaps, with the padding that it needs."""
    if w.dilation > 1 or w.taps >= w.stride:
        return None
    whole = replace(w, taps=w.stride)
    return whole if whole.reads_all else pad_both_sides(whole) or pad_after(whole)


# The order in which changes are offered.
CHANGES: tuple[Change, ...] = (
    pad_both_sides,
    pad_after,
    crop_input,
    enlarge_input,
    kernel_as_large_as_stride,
    smaller_stride,
    larger_kernel,
    dense_kernel,
)


def fixes(
    windows: Sequence[AxisWindow], allowed: Callable[[Sequence[AxisWindow]], bool] = lambda windows: True
) -> list[Fix]:
    """Changes after which no position is left out along any axis; each one was tried.

    windows: of rows and columns. A sequence is an image of one row, and its layers take one number instead of two.
    allowed: returns True if the operator accepts such windows.
    """
    is_sequence = len(windows) == 2 and windows[0] == AxisWindow(1, 1, windows[0].stride)
    # By the windows that they lead to, so that two changes with one result are offered once.
    fixed: dict[tuple[AxisWindow, ...], Fix] = {}
    for change in CHANGES:
        # Axes that are read completely stay as they are.
        changed = [w if w.reads_all else change(w) for w in windows]
        after = tuple(w for w in changed if w is not None)
        if len(after) < len(windows) or not allowed(after):
            continue
        if is_sequence:
            # Layers on sequences take the same padding on both sides only.
            if after[1].before == after[1].after:
                fixed.setdefault(after, Fix(description(windows[1:], after[1:]), after))
        else:
            fixed.setdefault(after, Fix(description(windows, after), after))
    return list(fixed.values())


def description(before: Sequence[AxisWindow], after: Sequence[AxisWindow]) -> str:
    """The change in words: only what differs, as arguments of the layer, and the output that it leads to."""

    def one_or_all(values: Sequence[int]) -> str:
        """A number where all axes agree, else a tuple."""
        return str(values[0]) if len(set(values)) == 1 else f"({', '.join(map(str, values))})"

    parts = []
    # The layer's arguments.
    if any(a.taps != b.taps for a, b in zip(after, before, strict=True)):
        parts.append(f"kernel_size={one_or_all([w.taps for w in after])}")
    if any(a.dilation != b.dilation for a, b in zip(after, before, strict=True)):
        parts.append(f"dilation={one_or_all([w.dilation for w in after])}")
    if any(a.stride != b.stride for a, b in zip(after, before, strict=True)):
        parts.append(f"stride={one_or_all([w.stride for w in after])}")
    if any(a.after != b.after for a, b in zip(after, before, strict=True)):
        even = all(w.before == w.after for w in after)
        sides = ", ".join(f"{w.before}, {w.after}" for w in after)
        parts.append(f"padding={one_or_all([w.after for w in after])}" if even else f"padding=({sides})")
    # The input's size.
    old, new = ("x".join(str(w.length) for w in windows) for windows in (before, after))
    if old != new:
        smaller = sum(w.length for w in after) < sum(w.length for w in before)
        parts.append(f"{'crop' if smaller else 'resize'} its input from {old} to {new}")
    return f"{', '.join(parts)} (output {'x'.join(str(w.outputs) for w in after)})"


def ranges(positions: Sequence[int]) -> str:
    """Positions as text, runs of neighbours as ranges: 1-2, 4."""
    runs: list[list[int]] = []
    for i in positions:
        if runs and i == runs[-1][-1] + 1:
            runs[-1][1:] = [i]
        else:
            runs.append([i])
    texts = ["-".join(map(str, run)) for run in runs]
    if len(texts) > MAX_RUNS:
        texts = [*texts[:4], "...", texts[-1]]
    return ", ".join(texts)
