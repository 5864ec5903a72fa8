"""One axis of a sliding window: what it reads, what it never reads, and what to change so that it reads all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from foveal.graph import Node

MOST = 64  # how far a search goes beyond what is there


@dataclass(frozen=True)
class Window:
    """n positions, k taps, stride u, dilation d, padding before and after them.

    Output p reads p u + t d - before for t < k.
    """

    n: int
    k: int
    u: int
    d: int = 1
    before: int = 0
    after: int = 0

    @property
    def reach(self) -> int:
        return (self.k - 1) * self.d + 1

    @property
    def outputs(self) -> int:
        return max(0, (self.n + self.before + self.after - self.reach) // self.u + 1)

    def reads(self, p: int) -> Iterator[int]:
        """The positions that output p reads, without those in the padding."""
        at = range(p * self.u - self.before, p * self.u - self.before + self.reach, self.d)
        return (i for i in at if 0 <= i < self.n)

    def unread(self) -> list[int]:
        """The positions that no output reads."""
        if self.d == 1 and self.reach >= self.u:  # without gaps: only the end can be left
            end = (self.outputs - 1) * self.u + self.reach - self.before if self.outputs else 0
            return list(range(max(end, 0), self.n))
        seen = {i for p in range(self.outputs) for i in self.reads(p)}
        return [i for i in range(self.n) if i not in seen]

    @property
    def fits(self) -> bool:
        return self.outputs > 0 and not self.unread()


def windows_of(node: Node) -> dict[int, Window]:
    """By axis of the image [N, C, ...], the windows that a convolution or pooling reads it with; {} for other
    operators.
    """
    how = node.op.arguments(**node.attributes) if node.op is not None else {}
    if not node.inputs or "stride" not in how or "padding" not in how or len(node.shape) < 3:
        return {}
    x, space = node.inputs[0], len(node.shape) - 2
    if len(x.shape) != len(node.shape) or node.op is None or "grad" in node.op.name:
        return {}
    taps = how.get("kernel_size", how.get("size"))
    if taps is None and len(node.inputs) > 1:
        taps = node.inputs[1].shape[-space:]
    pads, dilation = how["padding"], how.get("dilation", (1,) * space)
    if taps is None or len(pads) != 2 * space:
        return {}
    made = {
        2 + a: Window(x.shape[2 + a], taps[a], how["stride"][a], dilation[a], pads[2 * a], pads[2 * a + 1])
        for a in range(space)
    }
    right = all(window.outputs == node.shape[a] for a, window in made.items())
    return made if right else {}


@dataclass(frozen=True)
class Mend:
    """A change after which every position is read. `text` says it; `windows` are the axes with it, `outputs` their
    sizes.
    """

    text: str
    windows: tuple[Window, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        return tuple(w.outputs for w in self.windows)


Change = Callable[[Window], Window | None]


def first(found: Iterator[Window]) -> Window | None:
    """The first that reads everything."""
    return next((w for w in found if w.fits), None)


def padded(w: Window) -> Window | None:
    """More padding at the end."""
    return first(replace(w, after=w.after + i) for i in range(1, w.u + w.reach))


def padded_evenly(w: Window) -> Window | None:
    """More padding on both sides alike."""
    return first(replace(w, before=w.before + i, after=w.after + i) for i in range(1, w.u + w.reach))


def slower(w: Window) -> Window | None:
    """The largest stride below the present one."""
    return first(replace(w, u=u) for u in range(w.u - 1, 0, -1))


def larger_kernel(w: Window) -> Window | None:
    """The smallest kernel above the present one."""
    return first(replace(w, k=k) for k in range(w.k + 1, w.n + w.before + w.after + 1))


def cropped(w: Window) -> Window | None:
    """The largest input below the present one; less than half of it is no mend."""
    return first(replace(w, n=n) for n in range(w.n - 1, w.n // 2, -1))


def enlarged(w: Window) -> Window | None:
    """The smallest input above the present one."""
    return first(replace(w, n=n) for n in range(w.n + 1, w.n + MOST))


def dense(w: Window) -> Window | None:
    """As many neighbouring taps as the dilated ones reach over, and what padding that needs."""
    if w.d == 1:
        return None
    whole = replace(w, k=w.reach, d=1)
    return whole if whole.fits else padded(whole)


def kernel_and_padding(w: Window) -> Window | None:
    """Windows as large as the stride, so that they leave no gap, and what padding that needs."""
    if w.d > 1 or w.k >= w.u:
        return None
    whole = replace(w, k=w.u)
    return whole if whole.fits else padded_evenly(whole) or padded(whole)


CHANGES: tuple[Change, ...] = (
    padded_evenly,
    padded,
    cropped,
    enlarged,
    kernel_and_padding,
    slower,
    larger_kernel,
    dense,
)


def mends(windows: Sequence[Window], allowed: Callable[[Sequence[Window]], bool] = lambda windows: True) -> list[Mend]:
    """What can be changed so that no position is left out along any axis; each was tried.

    allowed: whether the operator takes such windows. Sequences are images of one row: their layers take one number.
    """
    sequence = len(windows) == 2 and windows[0] == Window(1, 1, windows[0].u)
    found: dict[tuple[Window, ...], Mend] = {}
    for change in CHANGES:
        made = [w if w.fits else change(w) for w in windows]
        whole = tuple(w for w in made if w is not None)
        if len(whole) < len(windows) or not allowed(whole):
            continue
        if sequence and whole[1].before == whole[1].after:
            found.setdefault(whole, Mend(told(windows[1:], whole[1:]), whole))
        elif not sequence:
            found.setdefault(whole, Mend(told(windows, whole), whole))
    return list(found.values())


def told(before: Sequence[Window], after: Sequence[Window]) -> str:
    """The change in words: only what differs, with the output that it gives."""

    def pair(of: Callable[[Window], int]) -> str:
        values = [of(w) for w in after]
        return str(values[0]) if len(set(values)) == 1 else f"({', '.join(map(str, values))})"

    parts = []
    if any(a.k != b.k for a, b in zip(after, before, strict=True)):
        parts.append(f"kernel_size={pair(lambda w: w.k)}")
    if any(a.d != b.d for a, b in zip(after, before, strict=True)):
        parts.append(f"dilation={pair(lambda w: w.d)}")
    if any(a.u != b.u for a, b in zip(after, before, strict=True)):
        parts.append(f"stride={pair(lambda w: w.u)}")
    if any(a.after != b.after for a, b in zip(after, before, strict=True)):
        even = all(w.before == w.after for w in after)
        sides = ", ".join(f"{w.before}, {w.after}" for w in after)
        parts.append(f"padding={pair(lambda w: w.after)}" if even else f"padding=({sides})")
    old, new = ("x".join(str(w.n) for w in ws) for ws in (before, after))
    if old != new:
        smaller = sum(w.n for w in after) < sum(w.n for w in before)
        parts.append(f"{'crop' if smaller else 'resize'} its input from {old} to {new}")
    return f"{', '.join(parts)} (output {'x'.join(str(w.outputs) for w in after)})"


def ranges(positions: Sequence[int]) -> str:
    """Positions as text: 1-2, 4."""
    parts: list[list[int]] = []
    for i in positions:
        if parts and i == parts[-1][-1] + 1:
            parts[-1][1:] = [i]
        else:
            parts.append([i])
    texts = ["-".join(map(str, part)) for part in parts]
    if len(texts) > 6:
        texts = [*texts[:4], "...", texts[-1]]
    return ", ".join(texts)
