"""Findings: what `check` has to say about a data set, as values, as text, and as a document for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foveal.display import escaped, table
from foveal.doctor import page
from foveal.doctor.pictures import Pictures
from foveal.names import printable

#: How grave a finding is. An error makes results wrong or images be left out, a warning costs accuracy as a rule, and a
#: note is worth a look.
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
# Groups of images that a text, and a document for JSON, list of each finding.
TEXT_EXAMPLES, JSON_EXAMPLES = 3, 100
# Groups of a finding, and images of a group, that a page draws.
GROUPS, GROUP = 24, 6
# Images of a group that a text lists.
TEXT_GROUP = 4


@dataclass(frozen=True)
class Example:
    """One image of a finding."""

    #: Its path, or its part and place in the arrays, such as "train[17]".
    image: str
    #: "train", "validation" or "test", and the name of its class; empty for a file that belongs to neither.
    part: str = ""
    label: str = ""
    #: What is to be said of this image alone.
    note: str = ""
    #: Its place among the images that were checked, by which it is drawn; None where it cannot be.
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.image} ({self.note})" if self.note else self.image

    def as_json(self) -> dict[str, str]:
        """Return the image as a dict: "image", and "part", "label", "note" where there is something to say."""
        known = {"image": self.image, "part": self.part, "label": self.label, "note": self.note}
        return {name: printable(value) for name, value in known.items() if value}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data set, or worth knowing: how often, which images, and the way out."""

    #: What it is, in a fixed name such as "exact duplicates".
    kind: str
    severity: Severity
    #: Images concerned; of a finding about classes, classes.
    count: int
    #: What was found, as a sentence, and what it means.
    text: str
    #: What to do about it, as a sentence.
    way_out: str
    #: Images that belong together, such as copies of each other, stand in one group; others are alone in theirs.
    groups: tuple[tuple[Example, ...], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return "kind", "severity", "count", "text", "way_out", and "examples": a list of groups of images."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "text": printable(self.text),
            "way_out": self.way_out,
            "groups": len(self.groups),
            "examples": [[example.as_json() for example in group] for group in self.groups[:JSON_EXAMPLES]],
        }

    def lines(self) -> Iterator[str]:
        """Yield the finding as lines of text, with a few examples."""
        yield f"{self.severity}: {self.text}"
        yield f"    {self.way_out}"
        for group in self.groups[:TEXT_EXAMPLES]:
            more = f" and {len(group) - TEXT_GROUP} more" if len(group) > TEXT_GROUP else ""
            yield f"    - {' = '.join(map(str, group[:TEXT_GROUP]))}{more}"
        if len(self.groups) > TEXT_EXAMPLES:
            yield f"    - and {len(self.groups) - TEXT_EXAMPLES:,} more"


@dataclass(frozen=True, eq=False, repr=False)
class Findings:
    """All that `check` found. It prints as text, and a notebook shows it as a table.

    `as_json()` is what `RUN/doctor.json` holds, `write_html(path)` writes a page with pictures.
    """

    #: The name of the data set.
    name: str
    #: What the data set is: images, parts, classes, sizes, channels; ready for JSON.
    facts: dict[str, Any]
    #: The gravest first.
    findings: tuple[Finding, ...]
    #: How long the check took.
    seconds: float
    #: Where the pictures of a page come from, by the place of an image: PNG as a data URI.
    pictures: Any = field(default=None)

    def of(self, kind: str) -> Finding | None:
        """Return the finding of that kind, None if there is none."""
        return next((finding for finding in self.findings if finding.kind == kind), None)

    @property
    def errors(self) -> int:
        """Findings that are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return "data", the facts, "findings" (see `Finding.as_json`), "errors", "warnings", "notes", "seconds"."""
        counts = {f"{s}s": sum(finding.severity == s for finding in self.findings) for s in SEVERITIES}
        return {
            "data": printable(self.name),
            **self.facts,
            "findings": [finding.as_json() for finding in self.findings],
            **counts,
            "seconds": round(self.seconds, 3),
        }

    def overview(self) -> str:
        """Return what the data set is, as a sentence."""
        facts = self.facts
        parts = ", ".join(f"{count:,} {part}" for part, count in facts["parts"].items())
        return f"{self.name}: {facts['images']:,} images ({parts}), {len(facts['classes'])} classes, {facts['size']}"

    def verdict(self) -> str:
        """Return how many findings there are, as a sentence."""
        counts = [(s, sum(finding.severity == s for finding in self.findings)) for s in SEVERITIES]
        said = ", ".join(f"{count} {s}{'s' * (count > 1)}" for s, count in counts if count)
        return f"{said or 'nothing to say against it'}; checked in {self.seconds:.1f} s"

    def brief(self) -> list[str]:
        """Return a few lines for the start of a training: the verdict, and errors and warnings in a line each."""
        grave = [finding for finding in self.findings if finding.severity != "note"]
        return [f"data check: {self.verdict()}", *(f"  {f.severity}: {f.text}" for f in grave)]

    def __repr__(self) -> str:
        found = [line for finding in self.findings for line in ("", *finding.lines())]
        return "\n".join(map(printable, [self.overview(), *found, "", self.verdict()]))

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        rows = [(f.severity, f.kind, f"{f.count:,}", f"{f.text} {f.way_out}") for f in self.findings]
        return table(("", "finding", "count", "what to do"), rows, self.overview(), [self.verdict()])

    def write_html(self, path: str | Path) -> None:
        """Write a page with all findings and pictures of their examples: one file, which needs nothing else."""
        sections = (section_of(finding, self.pictures) for finding in self.findings)
        notes = [self.overview(), self.verdict()]
        page.write(path, f"Data check: {self.name}", notes, [classes_of(self), *sections])


def in_words(names: Sequence[str], most: int = 5) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def classes_of(findings: Findings) -> str:
    """Return the table of images by class and part."""
    parts = list(findings.facts["parts"])
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("class", *parts))
    rows = (
        f"<tr><td>{escaped(name)}</td>{''.join(f'<td>{counts[part]:,}</td>' for part in parts)}</tr>"
        for name, counts in findings.facts["classes"].items()
    )
    made = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<section><details><summary>Images by class</summary><div class="scroll">{made}</div></details></section>'


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
        lines = [f"<b>{escaped(example.label)}</b>, {escaped(example.part)}", escaped(page.short(example.image))]
        if example.note and example.note != own:
            lines.append(escaped(example.note))
        figures.append(page.figure(pictures, example.index, example.image, lines))
    more = f'<p class="quiet">and {len(group) - GROUP} more</p>' if len(group) > GROUP else ""
    return f'<div class="group">{"".join(figures)}{more}</div>'
