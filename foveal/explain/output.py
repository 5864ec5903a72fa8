"""A summary as a table for people and as JSON."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from io import StringIO
from typing import Any, Literal

from foveal.explain.costs import in_words, short, size_in_words
from foveal.explain.rows import Extent, Row, Summary, Unread
from foveal.explain.windows import ranges

WIDTH = 120  # where the output is no terminal
TOLD_MENDS = 4
AXES = ("rows", "columns")
LEFT = ("layer", "output", "= formula")
FOLDED = ("layer", "= formula")
COLUMNS = ("layer", "output", "parameters", "= formula", "MACs", "bytes", "field", "stride", "start", "if dense")


def text(summary: Summary, depth: int | None = None, width: int = WIDTH) -> str:
    """The table, the totals, and notes, as plain text."""
    from rich.console import Console

    stream = StringIO()
    Console(file=stream, width=width, highlight=False, color_system=None).print(table(summary, depth))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([*filter(None, lines), "", *totals(summary), *notes(summary)])


def table(summary: Summary, depth: int | None = None) -> Any:
    """A rich table; layers nested deeper than `depth` are told by the row that holds them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in COLUMNS:
        side: Literal["left", "right"] = "left" if name in LEFT else "right"
        made.add_column(name, justify=side, overflow="fold", no_wrap=name not in FOLDED)
    for row in summary.rows:
        if depth is None or row.depth <= depth:
            style = "bold" if row.holds else None
            made.add_row(*(Text(cell) for cell in cells(row, summary.input[0])), style=style)
    return made


def cells(row: Row, images: int) -> tuple[str, ...]:
    last = row.name.rsplit(".", 1)[-1]
    shape = row.shape[1:] if row.shape[:1] == (images,) and row.kind != "Parameter" else row.shape
    return (
        "  " * row.depth + " ".join(filter(None, (last, row.kind))),
        "x".join(map(str, shape)),
        "shared" if row.shared else f"{row.parameters:,}" if row.parameters else "-",
        row.formula,
        short(row.macs) if row.macs else "-",
        size_in_words(row.output_bytes),
        *(each(row.field, of) for of in (sizes, strides, starts)),
        short(row.dense.parameters) if row.dense is not None else "",
    )


def each(field: tuple[Extent, ...], of: Callable[[Extent], str]) -> str:
    """One value where all axes agree, else one per axis."""
    values = [of(extent) for extent in field]
    return values[0] if len(set(values)) == 1 else "x".join(values)


def sizes(extent: Extent) -> str:
    return str(extent.size) if extent.line is not None else f"<={extent.size}"


def strides(extent: Extent) -> str:
    if not extent.per_position:
        return "-"
    return "mixed" if extent.line is None else f"{float(extent.line.stride):g}"


def starts(extent: Extent) -> str:
    return "" if extent.line is None else f"{float(extent.line.start):g}"


def words(count: int) -> str:
    """A large count in words, with a comma for what follows."""
    return f"{in_words(count)}, " if count >= 1000 else ""


def totals(summary: Summary) -> Iterator[str]:
    N, *image = summary.input
    images = "one image" if N == 1 else f"{N} images"
    yield (
        f"{summary.model} on {images} of {'x'.join(map(str, image))}: {summary.parameters:,} parameters"
        f" ({words(summary.parameters)}{size_in_words(summary.parameter_bytes)}; {summary.trainable:,} trainable,"
        f" {summary.frozen:,} frozen), {summary.buffers:,} numbers in buffers"
    )
    yield f"multiply-adds: {summary.macs:,} ({words(summary.macs)}only convolutions and matrix products are counted)"
    yield f"every layer's values together: {size_in_words(summary.activation_bytes)}"
    if summary.memory is not None:
        held = f"what a run will hold at once: {size_in_words(summary.memory.inference)} for inference"
        if summary.memory.training is None:
            yield f"{held}; no training step on this batch: {summary.memory.refused}"
        else:
            yield f"{held}, {size_in_words(summary.memory.training)} for a training step with its gradients"


def notes(summary: Summary) -> Iterator[str]:
    largest = max(
        (row for row in summary.rows if row.dense is not None and row.parameters),
        key=lambda row: row.dense.parameters if row.dense is not None else 0,
        default=None,
    )
    if largest is not None:
        yield f"if dense: {called(largest)} as a fully connected layer would have {largest.dense}"
    mixed = next((row for row in summary.rows if not row.holds and disagrees(row)), None)
    if mixed is not None:
        yield (
            f"field <=: from {called(mixed)} on, branches whose strides differ, or windows of different sizes, meet;"
            f" what the widest output sees of the image is shown"
        )
    if summary.unknown:
        yield f"no rule for the field of {', '.join(summary.unknown)}: taken to read all of the image"
    if summary.unused:
        yield f"not called in evaluation mode: {', '.join(summary.unused)}"
    for axis, extent in zip(AXES, summary.field, strict=False):
        if extent.unread():
            yield f"no output depends on the image's {axis} {ranges(extent.unread())} (of {extent.image})"
    for row in summary.rows:
        for lost in row.unread:
            yield from unread(row, lost)


def called(row: Row) -> str:
    """A row's name, or what it computes."""
    return row.name or row.kind


def disagrees(row: Row) -> bool:
    return any(extent.line is None for extent in row.field)


def unread(row: Row, lost: Unread) -> Iterator[str]:
    """What a layer's windows skip, and what mends it."""
    size = "x".join(str(w.n) for w in lost.windows)
    which = " and ".join(
        f"{axis} {ranges(positions)}" for axis, positions in zip(AXES, lost.positions, strict=False) if positions
    )
    window = f"kernel {'x'.join(str(w.k) for w in lost.windows)}, stride {'x'.join(str(w.u) for w in lost.windows)}"
    who = row.name if row.kind not in (lost.operator, "Parameter") and row.name else lost.operator
    if lost.elsewhere:
        yield f"{who} ({window}) skips {which} of its {size} input; another layer reads them"
        return
    yield f"{who} ({window}) never reads {which} of its {size} input. Each of these mends it:"
    for mend in lost.mends[:TOLD_MENDS]:
        yield f"  - {mend.text}"


def record(summary: Summary) -> dict[str, Any]:
    """Everything, in numbers and plain text."""
    return {
        "model": summary.model,
        "input": list(summary.input),
        "parameters": summary.parameters,
        "trainable": summary.trainable,
        "frozen": summary.frozen,
        "buffers": summary.buffers,
        "macs": summary.macs,
        "parameter_bytes": summary.parameter_bytes,
        "activation_bytes": summary.activation_bytes,
        "memory": None if summary.memory is None else asdict(summary.memory),
        "field": [extent_record(extent) for extent in summary.field],
        "unknown_operators": list(summary.unknown),
        "never_called": list(summary.unused),
        "layers": [row_record(row) for row in summary.rows],
    }


def row_record(row: Row) -> dict[str, Any]:
    dense = row.dense
    return {
        "name": row.name,
        "kind": row.kind,
        "depth": row.depth,
        "output": list(row.shape),
        "parameters": row.parameters,
        "trainable": row.trainable,
        "formula": row.formula,
        "buffers": row.buffers,
        "shared": row.shared,
        "macs": row.macs,
        "macs_formula": row.macs_formula,
        "output_bytes": row.output_bytes,
        "parameter_bytes": 4 * row.parameters,
        "field": [extent_record(extent) for extent in row.field],
        "unread": [unread_record(lost) for lost in row.unread],
        "fully_connected": None
        if dense is None
        else {"parameters": dense.parameters, "bytes": dense.bytes, "words": str(dense)},
    }


def extent_record(extent: Extent) -> dict[str, Any]:
    line = extent.line
    return {
        "image": extent.image,
        "size": extent.size,
        "stride": None if line is None or not extent.per_position else float(line.stride),
        "start": None if line is None else float(line.start),
        "centre": extent.centre,
        "covered": extent.covered,
        "aligned": line is not None,
    }


def unread_record(lost: Unread) -> dict[str, Any]:
    return {
        "operator": lost.operator,
        "positions": [list(positions) for positions in lost.positions],
        "read_by_another_layer": lost.elsewhere,
        "mends": [
            {
                "text": mend.text,
                "input": [w.n for w in mend.windows],
                "kernel_size": [w.k for w in mend.windows],
                "stride": [w.u for w in mend.windows],
                "dilation": [w.d for w in mend.windows],
                "padding": [side for w in mend.windows for side in (w.before, w.after)],
                "output": list(mend.outputs),
            }
            for mend in lost.mends
        ],
    }
