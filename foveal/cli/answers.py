"""The answers of `foveal predict` on standard output: as a table, JSON, a line of JSON each, or CSV.

However many there are, a bounded number of them is in memory.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import click

from foveal.cli.options import show_table
from foveal.cli.photos import STDIN
from foveal.names import printable

if TYPE_CHECKING:
    from foveal.train.classifier import Prediction

# Images in one table, and letters of JSON that are kept in memory.
_ROWS, _LETTERS = 1000, 1 << 24


def as_entry(answer: Prediction) -> dict[str, Any]:
    """Return an answer as it stands in JSON."""
    top = [{"class": label, "probability": probability} for label, probability in answer.top]
    name = STDIN if answer.source is None else answer.source
    return {"image": name, "class": answer.label, "probability": answer.probability, "none": answer.none, "top": top}


class Answers:
    """Takes answers one by one and prints them, `before` each time calling what clears the terminal."""

    #: True for what is printed at once.
    at_once = False

    def __init__(self, before: Callable[[], None]) -> None:
        self.before = before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Free what is held; nothing is printed."""

    def add(self, answer: Prediction) -> None:
        """Take an answer."""
        raise NotImplementedError

    def end(self) -> None:
        """Print what is left. At least one answer was taken."""


class Table(Answers):
    """A table with a row for each of the most probable classes; of many images one for each 1,000."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__(before)
        self.rows: list[tuple[str, str, str]] = []
        self.images = 0

    def add(self, answer: Prediction) -> None:
        """Take an answer."""
        name = STDIN if answer.source is None else answer.source
        if answer.none:
            self.rows.append((name, str(answer.label), ""))
            name = ""
        for rank, (label, probability) in enumerate(answer.top):
            self.rows.append(("" if rank else name, label, f"{probability:.2%}"))
        self.images += 1
        if self.images % _ROWS == 0:
            self.end()

    def end(self) -> None:
        """Print the rows that are left."""
        if self.rows:
            self.before()
            show_table(("image", "class", "probability"), self.rows)
            self.rows = []


class Json(Answers):
    """One JSON list, printed when all answers are there, since nothing may stand on standard output if one fails."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__(before)
        self.text = tempfile.SpooledTemporaryFile(_LETTERS, "w+", encoding="ascii")  # noqa: SIM115 - closed at the end
        self.empty = True

    def __exit__(self, *error: object) -> None:
        self.text.close()

    def add(self, answer: Prediction) -> None:
        """Take an answer."""
        self.text.write("[" if self.empty else ", ")
        self.text.write(json.dumps(as_entry(answer)))
        self.empty = False

    def end(self) -> None:
        """Print the list."""
        self.before()
        self.text.write("]\n")
        self.text.seek(0)
        shutil.copyfileobj(self.text, sys.stdout)
        sys.stdout.flush()


class JsonLines(Answers):
    """A JSON object on a line for each image, printed at once."""

    at_once = True

    def add(self, answer: Prediction) -> None:
        """Take an answer."""
        click.echo(json.dumps(as_entry(answer)))


class Csv(Answers):
    """A table of comma-separated values, with a line of heads, each row printed at once.

    The columns: image, class, probability, none (0 or 1), then the most probable classes, top_1, probability_1, ...
    """

    at_once = True

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__(before)
        self.begun = False

    def add(self, answer: Prediction) -> None:
        """Take an answer."""
        if not self.begun:
            ranks = [f"{name}_{rank}" for rank in range(1, len(answer.top) + 1) for name in ("top", "probability")]
            self.line(["image", "class", "probability", "none", *ranks])
            self.begun = True
        entry = as_entry(answer)
        top = [value for score in answer.top for value in score]
        self.line([entry["image"], entry["class"], entry["probability"], int(answer.none), *top])

    def line(self, values: Sequence[object]) -> None:
        """Print a line; what a terminal would obey is escaped if it goes to one."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        whole = text.getvalue()
        click.echo(printable(whole) if sys.stdout.isatty() else whole, nl=False)


#: By the name of the format.
FORMATS: dict[str, type[Answers]] = {"table": Table, "json": Json, "jsonl": JsonLines, "csv": Csv}
