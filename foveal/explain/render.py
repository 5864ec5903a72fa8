"""The rows of a model as a table for people (`text`) and as JSON (`record`)."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

from foveal.display import table as html_table
from foveal.explain.costs import BYTES, in_words, short, size_in_words
from foveal.explain.rows import Extent, Row, Rows, Unread
from foveal.explain.windows import Fix, ranges

if TYPE_CHECKING:
    from rich.table import Table

# A JSON object.
Json = dict[str, Any]

# Columns of text where the output is no terminal.
WIDTH = 120
# At most this many ways to fix a layer are printed; JSON has all.
MAX_PRINTED_FIXES = 4
AXES = ("rows", "columns")
# Columns that are aligned to the left, and columns whose text is wrapped.
LEFT = ("layer", "output", "= formula")
WRAPPED = ("layer", "= formula")
COLUMNS = ("layer", "output", "parameters", "= formula", "MACs", "bytes", "field", "stride", "start", "if dense")


def text(summary: Rows, depth: int | None = None, width: int = WIDTH) -> str:
    """Return the table, the totals and notes as plain text, `width` columns wide.

    depth: layers that are nested deeper are not shown; None shows all.
    """
    from rich.console import Console

    stream = StringIO()
    # In a notebook rich would show the table and leave the stream empty.
    Console(file=stream, width=width, highlight=False, color_system=None, force_jupyter=False).print(
        table(summary, depth)
    )
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([*filter(None, lines), "", *totals(summary), *notes(summary)])


def html(summary: Rows, depth: int | None = None) -> str:
    """Return the same for a notebook."""
    rows = [cells(row, summary.input[0]) for row in summary.rows if depth is None or row.depth <= depth]
    return html_table(COLUMNS, rows, notes=[*totals(summary), *notes(summary)])


def table(summary: Rows, depth: int | None = None) -> "Table":
    """Return a rich table; the rows of layers nested deeper than `depth` are left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rich_table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in COLUMNS:
        side: Literal["left", "right"] = "left" if name in LEFT else "right"
        rich_table.add_column(name, justify=side, overflow="fold", no_wrap=name not in WRAPPED)
    for row in summary.rows:
        if depth is None or row.depth <= depth:
            style = "bold" if row.holds else None
            rich_table.add_row(*(Text(cell) for cell in cells(row, summary.input[0])), style=style)
    return rich_table


def cells(row: Row, images: int) -> tuple[str, ...]:
    """Return a row's texts in the order of COLUMNS; shapes are shown without the batch of `images`."""
    last = row.name.rsplit(".", 1)[-1]
    shape = row.shape[1:] if row.shape[:1] == (images,) and row.kind != "Parameter" else row.shape
    return (
        "  " * row.depth + " ".join(filter(None, (last, row.kind))),
        "x".join(map(str, shape)),
        "shared" if row.shared else f"{row.parameters:,}" if row.parameters else "-",
        row.formula,
        short(row.macs) if row.macs else "-",
        size_in_words(row.output_bytes),
        *(one_or_each(row.field, show) for show in (sizes, strides, starts)),
        short(row.dense.parameters) if row.dense is not None else "",
    )


def one_or_each(field: tuple[Extent, ...], show: Callable[[Extent], str]) -> str:
    """Return one text if all axes agree, else one per axis."""
    values = [show(extent) for extent in field]
    return values[0] if len(set(values)) == 1 else "x".join(values)


def sizes(extent: Extent) -> str:
    """Return the size of a receptive field, or a bound of it if branches disagree."""
    return str(extent.size) if extent.line is not None else f"<={extent.size}"


def strides(extent: Extent) -> str:
    """Return how far apart the fields of neighbouring outputs start."""
    if not extent.per_position:
        return "-"
    return "mixed" if extent.line is None else f"{float(extent.line.stride):g}"


def starts(extent: Extent) -> str:
    """Return where the field of the first output starts."""
    return "" if extent.line is None else f"{float(extent.line.start):g}"


def words(count: int) -> str:
    """Return a large count in words and a comma, to stand before other text; nothing for a small one."""
    return f"{in_words(count)}, " if count >= 1000 else ""


def totals(summary: Rows) -> Iterator[str]:
    """Yield the lines about the whole model."""
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


def notes(summary: Rows) -> Iterator[str]:
    """Yield the lines that explain columns, and what is unknown, unused or never read."""
    # The column "if dense", by its largest number.
    largest = max(
        (row for row in summary.rows if row.dense is not None and row.parameters),
        key=lambda row: row.dense.parameters if row.dense is not None else 0,
        default=None,
    )
    if largest is not None:
        yield f"if dense: {called(largest)} as a fully connected layer would have {largest.dense}"
    # Sizes with "<=", from the first layer on that has one.
    mixed = next((row for row in summary.rows if not row.holds and disagrees(row)), None)
    if mixed is not None:
        yield (
            f"field <=: from {called(mixed)} on, branches whose strides differ, or windows of different sizes, meet;"
            f" the size of the largest field is shown"
        )
    if summary.unknown:
        yield f"no rule for the field of {', '.join(summary.unknown)}: assumed to read all of the image"
    if summary.unused:
        yield f"not called in evaluation mode: {', '.join(summary.unused)}"
    for axis, extent in zip(AXES, summary.field, strict=False):
        if extent.unread():
            yield f"no output depends on the image's {axis} {ranges(extent.unread())} (of {extent.image})"
    for row in summary.rows:
        for lost in row.unread:
            yield from unread(row, lost)


def called(row: Row) -> str:
    """Return a row's name, or for an operator without one what it computes."""
    return row.name or row.kind


def disagrees(row: Row) -> bool:
    """Return True if a receptive field of the row has no line."""
    return any(extent.line is None for extent in row.field)


def unread(row: Row, lost: Unread) -> Iterator[str]:
    """Yield the lines about positions that a layer's windows skip, and about the changes that fix it."""
    size = "x".join(str(w.length) for w in lost.windows)
    which = " and ".join(
        f"{axis} {ranges(positions)}" for axis, positions in zip(AXES, lost.positions, strict=False) if positions
    )
    taps, stride = (
        "x".join(map(str, sizes)) for sizes in zip(*((w.taps, w.stride) for w in lost.windows), strict=True)
    )
    window = f"kernel {taps}, stride {stride}"
    who = row.name if row.kind not in (lost.operator, "Parameter") and row.name else lost.operator
    if lost.elsewhere:
        yield f"{who} ({window}) skips {which} of its {size} input; another layer reads them"
        return
    yield f"{who} ({window}) never reads {which} of its {size} input. Any one of these changes fixes it:"
    for fix in lost.fixes[:MAX_PRINTED_FIXES]:
        yield f"  - {fix.text}"


def record(summary: Rows) -> Json:
    """Return everything as numbers, texts, lists and dictionaries."""
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


def row_record(row: Row) -> Json:
    """Return one layer for JSON."""
    # The cost of a fully connected layer in its place.
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
        "parameter_bytes": BYTES * row.parameters,
        "field": [extent_record(extent) for extent in row.field],
        "unread": [unread_record(lost) for lost in row.unread],
        "fully_connected": None
        if dense is None
        else {"parameters": dense.parameters, "bytes": dense.bytes, "words": str(dense)},
    }


def extent_record(extent: Extent) -> Json:
    """Return a receptive field along one axis for JSON; "aligned" is false if branches disagree."""
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


def unread_record(lost: Unread) -> Json:
    """Return what a layer's windows skip for JSON."""
    return {
        "operator": lost.operator,
        "positions": [list(positions) for positions in lost.positions],
        "read_by_another_layer": lost.elsewhere,
        "fixes": [fix_record(fix) for fix in lost.fixes],
    }


def fix_record(fix: Fix) -> Json:
    """Return a change that fixes a layer for JSON; lists have a number per axis, padding two."""
    return {
        "text": fix.text,
        "input": [w.length for w in fix.windows],
        "kernel_size": [w.taps for w in fix.windows],
        "stride": [w.stride for w in fix.windows],
        "dilation": [w.dilation for w in fix.windows],
        "padding": [side for w in fix.windows for side in (w.before, w.after)],
        "output": list(fix.outputs),
    }
