"""How results show themselves: tables as text, and tables, trees and curves as HTML in notebooks.

The HTML is escaped, and has no style sheets, no scripts and nothing from elsewhere. Colours are those of the notebook
around it, so that all is readable on a light and on a dark background. A class derives from `Tables`, or has a
`_repr_html_`, which notebooks call; a text that a notebook shows as a table is a `Text`.
"""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from foveal.names import printable

LINE = "1px solid rgba(128, 128, 128, 0.4)"
CELL = "padding: 0.15em 0.8em 0.15em 0; background: transparent; vertical-align: top;"
HEAD = f"{CELL} border-bottom: {LINE}; font-weight: bold;"
# A page loads nothing and runs nothing, whatever a name in it makes of it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem 1.25rem 3rem; font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } p, summary { overflow-wrap: anywhere; } details { margin: 0.3rem 0; }
pre { font: 0.8rem/1.4 ui-monospace, monospace; overflow-x: auto; padding: 0.5rem; border: 1px solid #8886; }
.wide { overflow-x: auto; } td, th { padding-right: 1rem; }
"""
# Pixels of a curve's picture.
WIDTH, HEIGHT = 160, 120

# A number, perhaps with a unit or as the start of a range.
NUMBER = re.compile(r"(<=|[-+])?(\d[\d.,]*(e[-+]?\d+)?\s?(%|[kMGT]?B?|m?s)( - [\d.]+)?|inf|nan)")

# Heading, columns, rows.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


class Tables:
    """Base of results that are shown as tables: as text when they are printed, as HTML in a notebook."""

    def tables(self) -> Iterator[Table]:
        """Yield the tables; each class defines it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n\n".join("\n".join(filter(None, (head, text_table(c, rows)))) for head, c, rows in self.tables())

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return "".join(table(columns, rows, heading) for heading, columns, rows in self.tables())


class Text(str):
    """A text that a terminal shows as it is, without quotation marks, and a notebook as HTML."""

    html: str

    def __new__(cls, text: str, html: str) -> Self:
        made = super().__new__(cls, text)
        made.html = html
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.html

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.html


def escaped(value: object) -> str:
    """Return a value's text with all that means something in HTML, or to a terminal, escaped."""
    return html.escape(printable(str(value)))


def text_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as text, with a rule below the heads; columns of numbers are aligned to the right."""
    lines = [[printable(str(value)) for value in row] for row in rows]
    right = [is_numeric([line[i] for line in lines]) for i in range(len(columns))]
    lines = ([list(columns)] if any(columns) else []) + lines
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))] if lines else []
    made = [
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]
    if any(columns):
        made.insert(1, "-" * max(map(len, made)))
    return "\n".join(made)


def is_numeric(cells: Sequence[str]) -> bool:
    """Return True for a column of numbers, which are aligned to the right."""
    filled = [text.strip() for text in cells if text.strip() not in ("", "-", ".")]
    return bool(filled) and all(map(NUMBER.fullmatch, filled))


def cell(tag: str, content: object, style: str, right: bool) -> str:
    """Return one cell of a table."""
    # Spaces indent names; numbers are not broken.
    kind = "text-align: right; white-space: pre" if right else "text-align: left; white-space: pre-wrap"
    return f'<{tag} style="{kind}; {style}">{escaped(content)}</{tag}>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", notes: Sequence[str] = ()) -> str:
    """Return a table, with a title above and a paragraph for each note below.

    columns: the heads; all empty for a table without heads. Columns of numbers are aligned to the right.
    """
    lines = [[str(value) for value in row] for row in rows]
    right = [is_numeric([line[i] for line in lines]) for i in range(len(columns))]
    head = "".join(map(cell, ["th"] * len(columns), columns, [HEAD] * len(columns), right))
    body = "".join(
        f'<tr style="background: transparent">{"".join(map(cell, ["td"] * len(line), line, [CELL] * len(line), right))}'
        "</tr>"
        for line in lines
    )
    thead = f'<thead><tr style="background: transparent">{head}</tr></thead>' if any(columns) else ""
    made = f'<table style="border-collapse: collapse; color: inherit">{thead}<tbody>{body}</tbody></table>'
    return "".join([paragraph(title, bold=True), made, *map(paragraph, notes)])


def paragraph(text: str, bold: bool = False) -> str:
    """Return a paragraph; nothing of an empty text."""
    weight = "; font-weight: bold" if bold else ""
    return f'<p style="margin: 0.4em 0; color: inherit{weight}">{escaped(text)}</p>' if text else ""


def folded(head: str, inside: Iterable[str], opened: bool) -> str:
    """Return a line that unfolds to what is inside, HTML already; without anything inside, the line alone."""
    parts = "".join(inside)
    if not parts:
        return f'<div style="padding-left: 1.1em; color: inherit">{escaped(head)}</div>'
    content = f'<div style="padding-left: 1.3em; border-left: {LINE}">{parts}</div>'
    summary = f'<summary style="cursor: pointer">{escaped(head)}</summary>'
    return f'<details style="color: inherit"{" open" if opened else ""}>{summary}{content}</details>'


def curve(x: Sequence[float], y: Sequence[float]) -> str:
    """Return a picture of a curve from (0, 0), left below, to (1, 1)."""
    points = " ".join(f"{WIDTH * a:.1f},{HEIGHT * (1 - b):.1f}" for a, b in zip(x, y, strict=True))
    frame = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>'
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    size = f'width="{WIDTH + 4}" height="{HEIGHT + 4}" viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{frame}{line}</svg>'


def listing(text: str) -> str:
    """Return a text with its line breaks, in letters of one width."""
    return f'<pre style="color: inherit; background: transparent">{escaped(text)}</pre>'


def page(title: str, body: str) -> str:
    """Return a whole page in one file; body: HTML already, as the functions above return it."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{escaped(title)}</h1><main>{body}</main></body></html>\n"
    )
