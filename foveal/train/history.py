"""History: what a training was like, epoch by epoch, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# The parts of a line that hold one value for each measure, in the order of the table's columns.
PARTS = ("train", "validation", "test")
# Under which name the numbers with test-time augmentation stand.
AVERAGED = "averaged"


class History(dict[str, Any]):
    """What a training was like: a dict of the numbers at its end, lists by epoch, and a table when it is printed.

        history = foveal.train.train(data, epochs=3)
        history["test"]["accuracy"]   # at the end, as in metrics.json
        history.test["accuracy"]      # a list, by epoch; so are history.train and history.validation
        history.curves                # all lists: {"train": {"loss": [...], ...}, "test": {...}, "lr": [...]}
        history.lines                 # a dict for each epoch, as in log.jsonl; ready for JSON

    As a dict it holds what `metrics.json` holds: "train", "test" and "validation" (loss, accuracy and other measures),
    the options, "seconds" and "images_per_second"; with test-time augmentation "averaged", with "views", its name,
    "count", how many views of each image, and "test" and "validation" as they are with it. `stopped` says why the
    training ended early, or is None.
    """

    def __init__(self, lines: list[dict[str, Any]], metrics: Mapping[str, Any]) -> None:
        super().__init__(metrics)
        self.lines = lines
        self.stopped: str | None = None

    def add(self, line: dict[str, Any], metrics: Mapping[str, Any]) -> None:
        """Add an epoch, and hold the numbers at its end."""
        self.lines.append(line)
        self.clear()
        self.update(metrics)

    @property
    def curves(self) -> dict[str, Any]:
        """Lists by epoch: {"train": {"loss": [...]}, ..., "lr": [...]}; None where an epoch lacks a value."""
        curves: dict[str, Any] = {}
        for part in PARTS:
            if any(part in line for line in self.lines):
                curves[part] = self.part(part)
        rest = [name for name in (self.lines[0] if self.lines else ()) if name not in (*PARTS, "epoch")]
        return curves | {name: [line.get(name) for line in self.lines] for name in rest}

    def part(self, name: str) -> dict[str, list[float | None]]:
        """Return the lists by epoch of "train", "validation" or "test"."""
        parts = [line.get(name, {}) for line in self.lines]
        measures = dict.fromkeys(measure for part in parts for measure in part)
        return {measure: [part.get(measure) for part in parts] for measure in sorted(measures, key=in_order)}

    @property
    def train(self) -> dict[str, list[float | None]]:
        """Of the training batches, by epoch: {"loss": [...], "accuracy": [...], ...}."""
        return self.part("train")

    @property
    def validation(self) -> dict[str, list[float | None]]:
        """Of the validation data, by epoch; empty if there are none."""
        return self.part("validation")

    @property
    def test(self) -> dict[str, list[float | None]]:
        """Of the test images, by epoch; empty if there are none."""
        return self.part("test")

    def __str__(self) -> str:
        """Return a table with a row for each epoch."""
        rows = [["epoch", *self.columns()]]
        for line in self.lines:
            values = flat(line)
            rows.append([str(line["epoch"]), *(written(name, values.get(name)) for name in self.columns())])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*text, *([f"stopped: {self.stopped}"] if self.stopped else [])])

    __repr__ = __str__

    def columns(self) -> list[str]:
        """Return the names of the values that the table shows."""
        found = dict.fromkeys(name for line in self.lines for name in flat(line))
        return [name for name in found if name != "epoch"]


def in_order(measure: str) -> tuple[bool, bool, str]:
    """Sort the loss first, then the accuracy."""
    return measure != "loss", measure != "accuracy", measure


def flat(line: Mapping[str, Any]) -> dict[str, float]:
    """Return a line with one name for each value: "epoch", "train loss", "validation accuracy", "lr", "seconds"."""
    return dict(values_of(line))


def values_of(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield each value of a line with its name."""
    yield "epoch", line["epoch"]
    for part in PARTS:
        for measure in sorted(line.get(part, {}), key=in_order):
            yield f"{part} {measure}", line[part][measure]
    for name, value in line.items():
        if name not in (*PARTS, "epoch"):
            yield name.replace("_", " "), value


def written(name: str, value: float | None) -> str:
    """Return a value as the table shows it."""
    if value is None:
        return ""
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    if name in ("seconds", "images per second"):
        return f"{value:,.1f}" if name == "seconds" else f"{value:,.0f}"
    return f"{value:.4g}"
