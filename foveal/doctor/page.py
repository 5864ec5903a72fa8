"""Pages with pictures. Each is one file, which needs nothing else.

Pictures are data URIs. Colours follow the reader's choice of a light or a dark scheme, and columns the width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from foveal.display import escaped
from foveal.doctor.pictures import Pictures, data_uri
from foveal.errors import DataError
from foveal.files import write_whole

# Pixels of a picture's longer side.
SIDE = 112

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
