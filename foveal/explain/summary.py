"""Summary: the rows of a model and their totals, as a table for people and as JSON."""

from dataclasses import dataclass

from foveal.display import Text
from foveal.explain.render import WIDTH, Json, html, record, text
from foveal.explain.rows import Rows


@dataclass(frozen=True, repr=False)
class Summary(Rows):
    """What `explain` returns. It is shown as a table, in a terminal and in a notebook."""

    def __repr__(self) -> str:
        return text(self)

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return html(self)

    def table(self, depth: int | None = None, width: int = WIDTH) -> Text:
        """Return the table with layers nested at most `depth` deep, the totals and notes, `width` columns wide.

        It is a text, which a notebook shows as a table.
        """
        return Text(text(self, depth, width), html(self, depth))

    def as_json(self) -> Json:
        """Return everything as numbers, texts, lists and dictionaries."""
        return record(self)
