"""Pages with pictures: the findings of a check, and likely label errors. Each is one file, which needs nothing else.

Pictures are data URIs. Colours follow the reader's choice of a light or a dark scheme, and columns the width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foveal.display import escaped
from foveal.doctor.findings import Example, Finding, Findings
from foveal.doctor.pictures import Pictures, data_uri
from foveal.errors import DataError
from foveal.files import write_whole

if TYPE_CHECKING:
    from foveal.doctor.label_errors import LabelErrors

# Pixels of a picture's longer side, and groups and images of a group that are drawn of one finding.
SIDE, GROUPS, GROUP = 112, 24, 6
# Likely label errors that are drawn.
ERRORS = 300

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --quiet: #5c5c5c; --back: #fff; --card: #f4f4f2; --line: #d8d8d4;
  --error: #b3261e; --warning: #8a5a00; --note: #2a5d9f; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e6; --quiet: #a3a3a0; --back: #161616; --card: #222221;
  --line: #3a3a38; --error: #ff8a80; --warning: #f2b84b; --note: #8ab8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem 1.25rem 3rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.1rem; margin: 0 0 0.25rem; }
p { margin: 0.25rem 0; } .quiet, figcaption { color: var(--quiet); }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
.tag { font-size: 0.8rem; font-weight: 600; border: 1px solid; border-radius: 1rem; padding: 0.05rem 0.6rem;
  margin-right: 0.5rem; white-space: nowrap; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
.groups { display: flex; flex-wrap: wrap; gap: 0.6rem; margin-top: 0.6rem; }
.group { display: flex; flex-wrap: wrap; gap: 0.5rem; background: var(--card); border-radius: 0.5rem; padding: 0.5rem; }
figure { margin: 0; width: 112px; } figure img { display: block; max-width: 112px; margin: 0 auto; }
figcaption { font-size: 0.75rem; line-height: 1.3; margin-top: 0.25rem; }
figcaption b { color: var(--text); font-weight: 600; }
ul { margin: 0.4rem 0 0; padding-left: 1.2rem; } li { font-size: 0.85rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 0.5rem 0; font-size: 0.9rem; }
th, td { text-align: right; padding: 0.15rem 0.8rem 0.15rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
"""


def write_findings(findings: Findings, path: str | Path) -> None:
    """Write the page of a check."""
    sections = (section_of(finding, findings.pictures) for finding in findings.findings)
    write(
        path,
        f"Data check: {findings.name}",
        [findings.overview(), findings.verdict()],
        [classes_of(findings), *sections],
    )


def write_errors(errors: LabelErrors, path: str | Path) -> None:
    """Write the page of likely label errors: each image with the label that it has, and the one that is likelier."""
    figures = []
    for error in errors.errors[:ERRORS]:
        lines = [
            f"<b>{escaped(error.given)}</b> &rarr; <b>{escaped(error.likely)}</b>",
            f"{error.p_given:.1%} &rarr; {error.p_likely:.1%}",
            escaped(short(error.image)),
        ]
        figures.append(f'<div class="group">{figure(errors.pictures, error.index, error.image, lines)}</div>')
    more = len(errors.errors) - ERRORS
    notes = [str(line) for line in errors.lines()]
    if more > 0:
        notes.append(f"The {ERRORS} most likely ones are shown; the CSV has all.")
    legend = '<p class="quiet">Under each image: its label &rarr; the likelier class, their probabilities.</p>'
    body = f'<section>{legend}<div class="groups">{"".join(figures)}</div></section>'
    write(path, f"Likely label errors: {errors.name}", notes, [body])


def write(path: str | Path, title: str, notes: Sequence[str], sections: Iterable[str]) -> None:
    """Write a page of sections, HTML already. Raises DataError if it cannot be written."""
    head = "".join(f"<p>{escaped(note)}</p>" for note in notes)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{escaped(title)}</h1>{head}\n{''.join(sections)}</body></html>\n"
    )
    try:
        write_whole(Path(path), page.encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}; choose another file") from None


def classes_of(findings: Findings) -> str:
    """Return the table of images by class and part."""
    parts = list(findings.facts["parts"])
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("class", *parts))
    rows = (
        f"<tr><td>{escaped(name)}</td>{''.join(f'<td>{counts[part]:,}</td>' for part in parts)}</tr>"
        for name, counts in findings.facts["classes"].items()
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<section><details><summary>Images by class</summary><div class="scroll">{table}</div></details></section>'


def section_of(finding: Finding, pictures: Pictures) -> str:
    """Return one finding with pictures of its first groups; of images that cannot be drawn, a list."""
    tag = f'<span class="tag {finding.severity}">{finding.severity}</span>'
    text = f"<h2>{tag}{escaped(finding.kind)}</h2><p>{escaped(finding.text)}</p>"
    text += f'<p class="quiet">{escaped(finding.way_out)}</p>'
    shown = finding.groups[:GROUPS]
    drawn = [group for group in shown if all(example.index is not None for example in group)]
    listed = [example for group in shown if group not in drawn for example in group]
    if drawn:
        text += f'<div class="groups">{"".join(group_of(group, pictures) for group in drawn)}</div>'
    if listed:
        text += f"<ul>{''.join(f'<li>{escaped(example)}</li>' for example in listed)}</ul>"
    if len(finding.groups) > GROUPS:
        text += f'<p class="quiet">and {len(finding.groups) - GROUPS:,} more</p>'
    return f"<section>{text}</section>\n"


def group_of(group: Sequence[Example], pictures: Pictures) -> str:
    """Return the pictures of images that belong together."""
    figures = []
    for example in group[:GROUP]:
        assert example.index is not None
        # Of copies the note is part and class, which the caption names anyhow.
        own = f"{example.part}, {example.label}"
        lines = [f"<b>{escaped(example.label)}</b>, {escaped(example.part)}", escaped(short(example.image))]
        if example.note and example.note != own:
            lines.append(escaped(example.note))
        figures.append(figure(pictures, example.index, example.image, lines))
    more = f'<p class="quiet">and {len(group) - GROUP} more</p>' if len(group) > GROUP else ""
    return f'<div class="group">{"".join(figures)}{more}</div>'


def figure(pictures: Pictures, index: int, image: str, lines: Sequence[str]) -> str:
    """Return one picture with a caption, whose lines are HTML already; pointed at, it shows its whole path."""
    try:
        drawn = f'<img alt="" src="{data_uri(pictures.image(index), SIDE)}">'
    except DataError:
        drawn = '<span class="quiet">cannot be read any more</span>'
    return f'<figure title="{escaped(image)}">{drawn}<figcaption>{"<br>".join(lines)}</figcaption></figure>'


def short(image: str) -> str:
    """Return the last part of a path."""
    return image.replace("\\", "/").rsplit("/", 1)[-1]
