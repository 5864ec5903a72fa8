"""Shapes in the notation of oneDNN's benchmarks: mb32_g1ic3oc32_ih224oh112kh3sh2ph1_iw224ow112kw3sw2pw1_n"name".

A file holds one shape a line. Each key is followed by its number. Numbers that are left out follow from the others, as
benchdnn reads them: columns from rows, the output's size from stride, dilation and padding, the padding from the
output's size. Dilation counts from 0, so 0 is a dense kernel. A line with oc is a convolution, one with a kernel but no
oc a pooling, any other a batch norm.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from foveal.errors import DataError
from foveal.explain.windows import AxisWindow

KEY = re.compile(r"_*(mb|id|ih|iw|od|oh|ow|kd|kh|kw|sd|sh|sw|dd|dh|dw|pd|ph|pw|ic|oc|g)([0-9]{1,9})")
NAME = re.compile(r'_*n"([^"]*)"$')
# Keys that may be 0: of dilation and padding. Letters of a file at most, and of a line that a message shows.
MAY_BE_ZERO = ("dd", "dh", "dw", "pd", "ph", "pw")
MAX_FILE, MAX_SHOWN = 1_000_000, 200
# The batch of a line that gives none, as in benchdnn.
BATCH = 2
CONVOLUTION, POOLING, NORM = "convolution", "pooling", "batch norm"


class Unsupported(Exception):
    """A shape is valid but cannot be computed here; the message says why."""


@dataclass(frozen=True)
class LayerShape:
    """The shape of one layer, from one line."""

    # CONVOLUTION, POOLING or NORM.
    kind: str
    name: str
    # Batch, input channels, filters (0 if there is no convolution) and groups.
    N: int
    C: int
    K: int
    G: int
    # Image and window along rows and columns; a batch norm has windows of 1.
    rows: AxisWindow
    columns: AxisWindow

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Padding: top, bottom, left, right."""
        return self.rows.before, self.rows.after, self.columns.before, self.columns.after


def content(path: Path) -> str:
    """Return the text of a file. Raises DataError for what is no file of text, or too large for one of shapes."""
    if not path.is_file():
        raise DataError(f"{path}: not a file of shapes; give a text file with one shape a line")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_FILE + 1)
    except ValueError:
        raise DataError(f"{path}: no text in UTF-8; give a text file with one shape a line") from None
    if len(text) > MAX_FILE:
        raise DataError(f"{path}: has more than {MAX_FILE:,} letters; give a file with the shapes that are to be timed")
    return text


def read(path: Path) -> Iterator[str]:
    """Yield the lines of a file that hold a shape: not empty, no comment, no option of benchdnn."""
    for line in content(path).splitlines():
        text = line.strip()
        if text and not text.startswith(("#", "-")):
            yield text


def parse(line: str, batch: int | None = None) -> LayerShape:
    """Return the shape of one line, for `batch` images if that is given.

    Raises Unsupported for a three-dimensional layer, and DataError for a line that cannot be read.
    """
    numbers, name = keys(line)
    if any(numbers.get(f"{key}d", 1) != 1 for key in "iok"):
        raise Unsupported("it is three-dimensional")
    if "ic" not in numbers:
        raise DataError(f"the shape {line!r} has no ic, the number of channels")
    if "ih" not in numbers and "iw" not in numbers:
        raise DataError(f"the shape {line!r} has neither ih nor iw, the image's size")
    # The keys that a line has decide its kind.
    kind = CONVOLUTION if "oc" in numbers else POOLING if {"kh", "kw"} & set(numbers) else NORM
    rows = axis(line, numbers, "h") if "ih" in numbers else AxisWindow(1, 1, 1)
    columns = axis(line, numbers, "w") if "iw" in numbers else rows
    return LayerShape(
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
    """Return the numbers of a line by key, and its name."""
    named = NAME.search(line)
    rest, numbers, position = line[: named.start()] if named else line, {}, 0
    while position < len(rest):
        match = KEY.match(rest, position)
        if match is None:
            if rest[position:].strip("_"):
                raise DataError(
                    f"the shape {line[:MAX_SHOWN]!r} cannot be read from {rest[position:][:MAX_SHOWN]!r} on"
                )
            break
        numbers[match[1]] = int(match[2])
        if not numbers[match[1]] and match[1] not in MAY_BE_ZERO:
            raise DataError(f"the shape {line[:MAX_SHOWN]!r} has {match[1]} 0, it has to be 1 or more")
        position = match.end()
    return numbers, named[1] if named else ""


def axis(line: str, numbers: Mapping[str, int], which: str) -> AxisWindow:
    """Return image and window along rows ("h") or columns ("w").

    Padding is the same on both sides if that leads to the output's size. Raises Unsupported if no padding does.
    """

    def get(key: str, default: int) -> int:
        """Return the number of a key along this axis."""
        return numbers.get(f"{key}{which}", default)

    n, k, u, d = get("i", 0), get("k", 1), get("s", 1), get("d", 0) + 1
    before, reach = get("p", 0), (k - 1) * d + 1
    # The number of outputs with the same padding on both sides, and the one that the line gives.
    symmetric = (n + 2 * before - reach) // u + 1
    outputs = get("o", symmetric)
    # Without a padding in the line, half of what the outputs need goes before.
    if f"p{which}" not in numbers and outputs != symmetric:
        before = max(0, ((outputs - 1) * u + reach - n) // 2)
        symmetric = (n + 2 * before - reach) // u + 1
    # The rest goes after.
    after = before if outputs == symmetric else max(0, (outputs - 1) * u + reach - n - before)
    window = AxisWindow(length=n, taps=k, stride=u, dilation=d, before=before, after=after)
    if outputs < 1 or window.outputs != outputs:
        raise Unsupported(f"no padding of 0 or more leads to {outputs} outputs of {n} inputs")
    return window
