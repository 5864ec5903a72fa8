"""Summary: the rows of a model and their totals, as a table for people and as JSON."""

from dataclasses import dataclass

from foveal.explain.render import WIDTH, Json, record, text
from foveal.explain.rows import Rows


@dataclass(frozen=True)
class Summary(Rows):
    """What `explain` returns. `str` of it, and `print`, show a table."""

    def __str__(self) -> str:
        return text(self)

    def table(self, depth: int | None = None, width: int = WIDTH) -> str:
        """Return the table with layers nested at most `depth` deep, the totals and notes, `width` columns wide."""
        return text(self, depth, width)

    def as_json(self) -> Json:
        """Return everything as numbers, texts, lists and dictionaries."""
        return record(self)
