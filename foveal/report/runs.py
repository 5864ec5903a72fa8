"""Runs beside each other: a table of their results, and a page with their curves in the same figures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.display import Table, Tables
from foveal.errors import DataError
from foveal.files import write_whole
from foveal.report import charts, page
from foveal.report.charts import Axis, Series
from foveal.report.page import Section
from foveal.report.record import Record, read_record
from foveal.report.training import EPOCH
from foveal.report.write import duration
from foveal.train.checkpoint import LOG, METRICS, MODEL
from foveal.train.files import writing

# What runs can be sorted by, and whether the largest comes first.
KEYS = {
    "date": True,
    "run": False,
    "data": False,
    "model": False,
    "accuracy": True,
    "loss": False,
    "epochs": False,
    "seconds": False,
    "size": False,
}
# Folders below the one that is looked through, and those of older runs, which are not shown.
MAX_DEPTH, EARLIER = 4, "earlier-"
# Runs whose curves are drawn; more cannot be told apart.
MAX_DRAWN = 16


@dataclass(frozen=True, repr=False)
class Comparison(Tables):
    """Runs beside each other; printed, a table. `rows` are dicts, ready for JSON."""

    records: tuple[Record, ...]
    rows: tuple[dict[str, Any], ...]

    def tables(self) -> Iterator[Table]:
        """Yield a table with a row for each run."""
        columns = ("run", "state", "accuracy", "loss", "on", "epochs", "time", "model", "data", "MiB", "date")
        yield "", columns, [written(row) for row in self.rows]

    def write_html(self, path: str | Path) -> Path:
        """Write a page with the table and the curves of these runs, and return its path."""
        columns, rows = next((c, r) for _, c, r in self.tables())
        problems = [f"{row['run']}: {row['problem']}" for row in self.rows if row["problem"]]
        sections = [
            Section("results", "Results", page.table("", columns, rows)),
            Section("curves", "Curves", page.figures(*overlaid(self.records, self.rows))),
        ]
        head = "".join(page.paragraph(problem, "warn") for problem in problems)
        text = page.document("Runs", head, sections, f"{len(rows)} runs.")
        with writing(Path(path)):
            write_whole(Path(path), text.encode("utf-8", "xmlcharrefreplace"))
        return Path(path)


def compare(folder: str | Path = "runs", sort: str = "date") -> Comparison:
    """Return the runs in a folder beside each other; the folder of one run is that run alone.

        print(report.compare("runs", sort="accuracy"))
        report.compare("runs").write_html("runs.html")   # the curves of all in the same figures

    sort: date, run, data, model, accuracy, loss, epochs, seconds or size; the newest, the most accurate and else the
    smallest come first. Runs that are damaged or have not ended are there too, and say so; folders of older runs,
    earlier-1 and so on, are left out. Raises DataError where there is no such folder, and where no run is in it.
    """
    place = Path(folder)
    if sort not in KEYS:
        raise DataError(f"sort is {sort!r}; choose one of {', '.join(KEYS)}")
    if not place.is_dir():
        raise DataError(f"{place}: there is no such folder; give the one that your runs are in, such as runs")
    found = [(read_record(path), path) for path in run_folders(place)]
    if not found:
        raise DataError(f"{place}: there are no runs in it; `foveal train DATA --out {place / 'name'}` makes one")
    pairs = [(row_of(record, name_of(path, place)), record) for record, path in found]
    known = [pair for pair in pairs if pair[0][sort] not in (None, "")]
    known.sort(key=lambda pair: pair[0]["run"])
    known.sort(key=lambda pair: pair[0][sort], reverse=KEYS[sort])
    pairs = known + [pair for pair in pairs if pair[0][sort] in (None, "")]
    return Comparison(tuple(record for _, record in pairs), tuple(row for row, _ in pairs))


def name_of(path: Path, place: Path) -> str:
    """Return what a run is called: its path below the folder that is looked through."""
    return path.resolve().name if path == place else str(path.relative_to(place))


def run_folders(place: Path) -> Iterator[Path]:
    """Yield the folders of runs in a folder, itself among them, without those within runs."""
    for path, folders, files in os.walk(place):
        if {METRICS, LOG, MODEL, "run.json"} & set(files):
            folders.clear()
            yield Path(path)
        deep = len(Path(path).relative_to(place).parts) >= MAX_DEPTH
        folders[:] = [] if deep else sorted(f for f in folders if not f.startswith((".", EARLIER)))


def row_of(record: Record, name: str) -> dict[str, Any]:
    """Return what is compared of a run, ready for JSON; None where it is not known."""
    return {
        "run": name,
        "state": record.status,
        "accuracy": record.value("accuracy"),
        "loss": record.value("loss"),
        "part": record.measured,
        "epochs": record.epochs_done,
        "planned": record.number("epochs"),
        "seconds": record.number("seconds"),
        "model": text_or_none(record.metrics.get("model")),
        "data": text_or_none(record.metrics.get("data")),
        "size": record.model_bytes,
        "date": record.date,
        "problem": "; ".join(record.problems),
    }


def text_or_none(value: object) -> str | None:
    """Return a text, and None for anything else."""
    return value if isinstance(value, str) else None


def written(row: dict[str, Any]) -> list[str]:
    """Return a run as the cells of the table."""
    planned = f"/{row['planned']:.0f}" if row["planned"] is not None and row["planned"] != row["epochs"] else ""
    accuracy, loss, seconds, size = (row[name] for name in ("accuracy", "loss", "seconds", "size"))
    return [
        row["run"],
        row["state"],
        "-" if accuracy is None else f"{accuracy:.2%}",
        "-" if loss is None else f"{loss:.4f}",
        row["part"] or "-",
        f"{row['epochs']}{planned}",
        "-" if seconds is None else duration(seconds),
        row["model"] or "-",
        row["data"] or "-",
        "-" if size is None else f"{size / 2**20:.2f}",
        row["date"] or "-",
    ]


def overlaid(records: Sequence[Record], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield figures with a curve of each run: what it is judged by, and its loss on the training images."""
    drawn = [(record, row["run"]) for record, row in zip(records, rows, strict=True) if record.lines][:MAX_DRAWN]
    left_out = f"; the first {MAX_DRAWN} runs of the table" if len(records) > MAX_DRAWN else ""
    for part, measure in (("measured", "accuracy"), ("measured", "loss"), ("train", "accuracy"), ("train", "loss")):
        series = []
        for number, (record, name) in enumerate(drawn):
            values = record.part_lines(record.measured or "train" if part == "measured" else part, measure)
            if charts.finite(values):
                # A run has the same colour in all figures.
                series.append(Series(name, [float(line["epoch"]) for line in record.lines], values, number))
        if not series:
            continue
        share = measure == "accuracy"
        where = "test, or else validation images" if part == "measured" else "training images"
        axis = Axis(measure, percent=share, high=1.0 if share else None, logarithmic=not share)
        chart = charts.line_chart(series, EPOCH, axis, f"{measure} on {where} by epoch, of {len(series)} runs")
        yield page.figure(f"{measure.capitalize()} on {where}", f"by epoch{left_out}", chart, series)
