"""Shapes as oneDNN's benchmarks write them, one a line: mb32_g1ic3oc32_ih224oh112kh3sh2ph1_iw224ow112kw3sw2pw1_n"name".

A key is followed by its number; what is left out follows from the rest, as benchdnn reads it: columns from rows,
sizes of the output from stride, dilation and padding, the padding from the output. Dilation counts from 0. A line with
oc is a convolution, one with a kernel alone a pooling, any other a batch norm.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from foveal.errors import DataError

KEY = re.compile(r"_*(mb|id|ih|iw|od|oh|ow|kd|kh|kw|sd|sh|sw|dd|dh|dw|pd|ph|pw|ic|oc|g)(\d+)")
NAME = re.compile(r'_*n"([^"]*)"$')
BATCH = 2  # benchdnn's, where a line has none
CONVOLUTION, POOLING, NORM = "convolution", "pooling", "batch norm"


class Unsupported(Exception):
    """A shape that is right but cannot be computed; the message says why."""


@dataclass(frozen=True)
class Axis:
    """Rows or columns: n inputs, k taps, stride u, dilation d (1 is dense), padding before and after, `out` outputs."""

    n: int
    k: int
    u: int
    d: int
    before: int
    after: int
    out: int


@dataclass(frozen=True)
class Shape:
    """One line. K is 0 where there is no convolution; a batch norm's axes have windows of 1."""

    kind: str
    name: str
    N: int
    C: int
    K: int
    G: int
    rows: Axis
    columns: Axis

    @property
    def padding(self) -> tuple[int, int, int, int]:
        return self.rows.before, self.rows.after, self.columns.before, self.columns.after


def read(path: Path) -> Iterator[str]:
    """The lines of a file that hold a shape."""
    for line in path.read_text().splitlines():
        text = line.strip()
        if text and not text.startswith(("#", "-")):
            yield text


def parse(line: str, batch: int | None = None) -> Shape:
    """One line's shape, on `batch` images where that is given; Unsupported for three-dimensional ones."""
    numbers, name = keys(line)
    if any(numbers.get(f"{key}d", 1) != 1 for key in "iok"):
        raise Unsupported("it is three-dimensional")
    if "ic" not in numbers:
        raise DataError(f"the shape {line!r} has no ic, the number of channels")
    if "ih" not in numbers and "iw" not in numbers:
        raise DataError(f"the shape {line!r} has neither ih nor iw, the image's size")
    kind = CONVOLUTION if "oc" in numbers else POOLING if {"kh", "kw"} & set(numbers) else NORM
    rows = axis(line, numbers, "h") if "ih" in numbers else Axis(1, 1, 1, 1, 0, 0, 1)
    columns = axis(line, numbers, "w") if "iw" in numbers else rows
    return Shape(
        kind,
        name or line,
        batch or numbers.get("mb", BATCH),
        numbers["ic"],
        numbers.get("oc", 0),
        numbers.get("g", 1),
        rows,
        columns,
    )


def keys(line: str) -> tuple[Mapping[str, int], str]:
    """The numbers by key, and the name."""
    named = NAME.search(line)
    rest, numbers, at = line[: named.start()] if named else line, {}, 0
    while at < len(rest):
        found = KEY.match(rest, at)
        if found is None:
            if rest[at:].strip("_"):
                raise DataError(f"the shape {line!r} cannot be read from {rest[at:]!r} on")
            break
        numbers[found[1]] = int(found[2])
        at = found.end()
    return numbers, named[1] if named else ""


def axis(line: str, numbers: Mapping[str, int], which: str) -> Axis:
    """Rows ("h") or columns ("w"). Padding is the same on both sides where that gives the output."""

    def get(key: str, default: int) -> int:
        return numbers.get(f"{key}{which}", default)

    n, k, u, d = get("i", 0), get("k", 1), get("s", 1), get("d", 0) + 1
    before, span = get("p", 0), (get("k", 1) - 1) * d + 1
    symmetric = (n + 2 * before - span) // u + 1
    out = get("o", symmetric)
    if f"p{which}" not in numbers and out != symmetric:
        before = max(0, ((out - 1) * u + span - n) // 2)
        symmetric = (n + 2 * before - span) // u + 1
    after = before if out == symmetric else max(0, (out - 1) * u + span - n - before)
    if out < 1 or (n + before + after - span) // u + 1 != out:
        raise Unsupported(f"no padding of 0 or more makes {out} outputs of {n} inputs")
    return Axis(n, k, u, d, before, after, out)
