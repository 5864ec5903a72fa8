"""The page of a report: one HTML file, without scripts and without anything from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foveal.display import escaped, is_numeric
from foveal.report.charts import COLOURS, Series
from foveal.report.style import STYLE

# A page may load nothing and run nothing, whatever a name of a class makes of it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A part of the page below a heading; without content it is left out."""

    name: str
    title: str
    content: str


def document(title: str, head: str, sections: Iterable[Section], foot: str, refresh: int | None = None) -> str:
    """Return the page. head: HTML above the list of sections. refresh: seconds after which it is loaded anew."""
    shown = [section for section in sections if section.content]
    links = "".join(f'<a href="#{section.name}">{escaped(section.title)}</a>' for section in shown)
    body = "".join(
        f'<section aria-labelledby="{one.name}"><h2 id="{one.name}">{escaped(one.title)}</h2>{one.content}</section>'
        for one in shown
    )
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">{again}'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escaped(title)}</title>'
        f"<style>{STYLE}</style></head><body><header><h1>{escaped(title)}</h1>{head}"
        f'<nav aria-label="Sections">{links}</nav></header><main>{body}</main><footer>{foot}</footer></body></html>\n'
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text; nothing of an empty one."""
    return f"<p{of_class(kind)}>{escaped(text)}</p>" if text else ""


def of_class(kind: str) -> str:
    """Return the attribute of a class of the style sheet, if one is given."""
    return f' class="{kind}"' if kind else ""


def numbers(values: Iterable[tuple[str, str, str]]) -> str:
    """Return the large numbers at the top of a page: what it is, the number, and a note on it."""
    cells = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}<small>{escaped(note)}</small></dd></div>"
        for name, value, note in values
    )
    return f'<dl class="numbers">{cells}</dl>' if cells else ""


def figures(*inside: str) -> str:
    """Return figures beside each other where there is room."""
    return f'<div class="figures">{"".join(inside)}</div>' if any(inside) else ""


def figure(title: str, note: str, content: str, series: Sequence[Series] = ()) -> str:
    """Return a figure with a title, a note on it, and a legend of its curves if there are several."""
    entries = ""
    for number, one in enumerate(series):
        colour = number if one.colour is None else one.colour
        kind = f"c{colour % COLOURS}" + (" dashed" if colour >= COLOURS else "")
        entries += f'<li><i class="{kind}"></i>{escaped(one.name)}</li>'
    legend = f'<ul class="legend">{entries}</ul>' if len(series) > 1 else ""
    return f"<figure><figcaption><b>{escaped(title)}</b><br>{escaped(note)}</figcaption>{content}{legend}</figure>"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table whose first column names the rows; columns of numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    right = [is_numeric([row[i] for row in cells]) for i in range(len(columns))]
    kinds = [of_class("right" if one else "") for one in right]
    head = "".join(f'<th scope="col"{kind}>{escaped(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
    body = ""
    for row in cells:
        first, *others = (escaped(cell) for cell in row)
        rest = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        body += f'<tr><th scope="row"{kinds[0]}>{first}</th>{rest}</tr>'
    # A table that is wider than the screen is moved by itself, also with the keys.
    return (
        f'{paragraph(caption, "soft")}<div class="wide" tabindex="0" role="group"'
        f' aria-label="{escaped(caption or columns[0])}"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def picture(content: bytes, kind: str, described: str, style: str = "") -> str:
    """Return an image that is in the page. kind: png or jpeg; described: what it shows, in words."""
    data = base64.b64encode(content).decode()
    return f'<img src="data:image/{kind};base64,{data}" alt="{escaped(described)}"{of_class(style)}>'


def folded(title: str, content: str) -> str:
    """Return what is seen once its title is chosen."""
    return f"<details><summary>{escaped(title)}</summary>{content}</details>" if content else ""
