"""How a training went: curves by epoch, the rate and the momentum by step, the speed."""

from __future__ import annotations

from collections.abc import Mapping

from foveal.report import charts, page
from foveal.report.charts import Axis, Series
from foveal.report.record import Record, numeric

# Each part has the same colour in all figures.
PART_COLOURS = {"train": 0, "validation": 1, "test": 2}
EPOCH = Axis("epoch", whole=True)


def curves(record: Record) -> str:
    """Return figures of loss, accuracy and other measures by epoch, above each other in time."""
    parts = record.parts
    measures = dict.fromkeys(m for line in record.lines for part in parts for m in line.get(part, {}))
    ordered = sorted(measures, key=lambda name: (name != "loss", name != "accuracy", name))
    made = []
    for measure in ordered[:8]:
        share = measure == "accuracy"
        series = by_part(record, measure)
        if not any(charts.finite(one.y) for one in series):
            continue
        axis = Axis(measure, percent=share, high=1.0 if share else None, logarithmic=measure == "loss")
        drawn = charts.line_chart(series, EPOCH, axis, f"{measure} by epoch: {ends(series, share)}")
        made.append(page.figure(measure.capitalize(), ends(series, share), drawn, series))
    rows = [row(record, number) for number in range(len(record.lines))]
    columns = ["epoch", *(f"{part} {measure}" for part in parts for measure in ordered), "rate", "images/s"]
    shown = rows if len(rows) <= 200 else [*rows[:20], *rows[-180:]]
    left_out = f" (the first 20 and the last 180 of {len(rows)})" if len(rows) > len(shown) else ""
    values = page.folded(f"The values as a table{left_out}", page.table("", columns, shown))
    return page.figures(*made) + values if made else ""


def by_part(record: Record, measure: str) -> list[Series]:
    """Return a curve of a measure by epoch for each part that has it."""
    epochs = [float(line["epoch"]) for line in record.lines]
    found = {part: record.part_lines(part, measure) for part in record.parts}
    return [Series(part, epochs, values, PART_COLOURS[part]) for part, values in found.items() if charts.finite(values)]


def ends(series: list[Series], share: bool) -> str:
    """Return the last values, as words."""
    last = [(one.name, charts.finite(one.y)[-1]) for one in series if charts.finite(one.y)]
    return ", ".join(f"{name} {value:.2%}" if share else f"{name} {value:.4g}" for name, value in last)


def row(record: Record, number: int) -> list[str]:
    """Return an epoch as a row of the table of values."""
    line = record.lines[number]
    measures = dict.fromkeys(m for one in record.lines for part in record.parts for m in one.get(part, {}))
    ordered = sorted(measures, key=lambda name: (name != "loss", name != "accuracy", name))
    cells = [str(line["epoch"])]
    for part in record.parts:
        for measure in ordered:
            found = line.get(part)
            value = numeric(found.get(measure)) if isinstance(found, Mapping) else None
            cells.append("" if value is None else f"{value:.2%}" if measure == "accuracy" else f"{value:.4g}")
    rate, speed = numeric(line.get("lr")), numeric(line.get("images_per_second"))
    return [*cells, "" if rate is None else f"{rate:.4g}", "" if speed is None else f"{speed:,.0f}"]


def rates(record: Record) -> str:
    """Return figures of the rate, the momentum and the loss by step; by epoch where no steps were written."""
    steps, made = record.steps, []
    if steps.get("step"):
        x, by = steps["step"], Axis("step", whole=True)
        note = "by step"
        lr, momentum, loss = steps["lr"], steps["momentum"], steps["loss"]
    else:
        x, by = [float(line["epoch"]) for line in record.lines], EPOCH
        note = "by epoch; steps were not recorded"
        lr, momentum, loss = [numeric(line.get("lr")) for line in record.lines], [], []
    for name, values, colour, axis in (
        ("Learning rate", lr, 0, Axis("rate", low=0.0)),
        ("Momentum", momentum, 3, Axis("momentum", low=0.0, high=1.0)),
        ("Loss of the batches", loss, 4, Axis("loss", logarithmic=True)),
    ):
        # No figure where nothing is known, as the momentum where steps were not recorded.
        known = charts.finite(values)
        if not known:
            continue
        span = f"from {known[0]:.4g} to {known[-1]:.4g}, {min(known):.4g} to {max(known):.4g} in all"
        told = f"{known[0]:.4g} throughout, {note}" if min(known) == max(known) else f"{span}, {note}"
        series = [Series(name, x, values, colour)]
        made.append(page.figure(name, told, charts.line_chart(series, by, axis, f"{name}: {told}")))
    return page.figures(*made)


def speed(record: Record) -> str:
    """Return the images per second by epoch, and the memory that a step took."""
    values = [numeric(line.get("images_per_second")) for line in record.lines]
    epochs, made = [float(line["epoch"]) for line in record.lines], ""
    if known := charts.finite(values):
        series = [Series("images per second", epochs, values, 5)]
        told = f"training steps alone; {min(known):,.0f} to {max(known):,.0f} by epoch"
        drawn = charts.line_chart(series, EPOCH, Axis("images/s", low=0.0), f"Images per second: {told}")
        made = page.figure("Images per second", told, drawn)
    rows = memory(record.metrics.get("memory_bytes"))
    if (size := record.model_bytes) is not None:
        rows.append(["the model file", f"{size / 2**20:,.2f} MiB"])
    if (seconds := record.number("seconds")) is not None:
        rows.append(["the whole run", f"{seconds:,.1f} s"])
    facts = page.table("What it took", ["what", "size"], rows) if rows else ""
    return page.figures(made, facts)


def memory(found: object) -> list[list[str]]:
    """Return rows about the memory of a training step, as metrics.json has it."""
    if not isinstance(found, Mapping):
        return []
    names = {
        "variables": "parameters, and what the optimizer keeps",
        "values": "values between the layers",
        "prepared": "packed filters",
        "batch": "a batch",
    }
    known = {name: value for name in names if (value := numeric(found.get(name))) is not None}
    rows = [[names[name], f"{value / 2**20:,.2f} MiB"] for name, value in known.items()]
    return [*rows, ["a step, in all", f"{sum(known.values()) / 2**20:,.2f} MiB"]] if rows else []
