"""The documentation's pages as their sources: metadata, cells and prose, without the packages that build them."""

import re
from dataclasses import dataclass

from shared import ROOT

DOCS = ROOT / "docs"
FENCE = re.compile(r"^(`{3,}|:{3,})\{?([\w-]*)\}?(.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    #: what stands after the fence, such as code-cell, math or toctree; empty where nothing does
    kind: str
    #: the options before the text, as they are written: YAML between --- or lines of :name: value
    options: str
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    name: str
    source: str
    blocks: tuple[Block, ...]
    #: what stands outside of fenced blocks, and of the metadata at the top, with empty lines in their place
    prose: str

    @property
    def cells(self):
        return [block for block in self.blocks if block.kind == "code-cell"]

    @property
    def is_notebook(self):
        return self.source.startswith("---\n") and "file_format: mystnb" in self.source


def read(path):
    """The page in a file."""
    return parsed(path.relative_to(DOCS).with_suffix("").as_posix(), path.read_text())


def parsed(name, source):
    """The page of this text."""
    lines, prose, blocks = source.splitlines(), [], []
    i = 0
    if lines and lines[0] == "---":
        i = lines.index("---", 1) + 1
        prose += [""] * i
    while i < len(lines):
        opened = FENCE.match(lines[i])
        # An admonition is prose within colons; what it holds is read as prose is.
        if not opened or opened[1][0] == ":":
            prose.append("" if opened else lines[i])
            i += 1
            continue
        end = next(n for n in range(i + 1, len(lines)) if lines[n].strip() == opened[1])
        inside = lines[i + 1 : end]
        options = 0
        if inside and inside[0] == "---":
            options = inside.index("---", 1) + 1
        else:
            while options < len(inside) and re.match(r":[\w-]+:", inside[options]):
                options += 1
        given, text = "\n".join(inside[:options]), "\n".join(inside[options:])
        blocks.append(Block(opened[2], given, text, i + 1))
        prose += [""] * (end + 1 - i)
        i = end + 1
    return Page(name, source, tuple(blocks), "\n".join(prose))


PAGES = {page.name: page for page in map(read, sorted(DOCS.rglob("*.md")))}
