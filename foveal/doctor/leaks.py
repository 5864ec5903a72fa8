"""Findings about files that are left out, and about copies: within a class, in two parts, in two classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from foveal.data.scanning.image_files import said_of
from foveal.data.scanning.listing import Problem
from foveal.doctor.duplicates import Copies, Group
from foveal.doctor.findings import Example, Finding, Severity, in_words
from foveal.doctor.pictures import Pictures

# Of kinds of problems of files: how grave, what they mean, and the way out.
PROBLEMS: dict[str, tuple[Severity, str, str]] = {
    "unreadable": (
        "error",
        "cannot be read as images and are left out",
        "Open one with an image viewer: repair, convert or delete it.",
    ),
    "truncated": (
        "error",
        "end before their last pixel and are left out",
        "Copy or download them again; a disk that was full, or a transfer that broke off, leaves such files.",
    ),
    "hostile": (
        "error",
        "are refused, and left out, as decoding them could take all memory or never end",
        "Save what is really an image with fewer pixels, and delete the rest.",
    ),
    "missing": ("error", "are not there any more, or not where the table says", "Restore them, or take them out."),
    "wrong extension": (
        "warning",
        "hold another format than their name says; they are read by their content",
        "Rename them, as other programs may go by the name.",
    ),
}
# Other kinds are said as `data.scan` says them.
_ELSEWHERE = "Nothing has to be done if that is meant; else move them to where they belong."


def example(pictures: Pictures, index: int, note: str = "") -> Example:
    """Return an image as an example."""
    label = pictures.classes[int(pictures.labels[index])]
    return Example(pictures.title(index), str(pictures.parts[index]), label, note, index)


def of_problems(problems: Sequence[Problem]) -> Iterator[Finding]:
    """Yield a finding for each kind of problem of files."""
    for kind in dict.fromkeys([*PROBLEMS, *(problem.kind for problem in problems)]):
        found = [problem for problem in problems if problem.kind == kind]
        if not found:
            continue
        known = PROBLEMS.get(kind, ("note", f"are {said_of(kind)}", _ELSEWHERE))
        severity, means, way_out = known
        groups = tuple((Example(p.path, note=p.text),) for p in found)
        yield Finding(kind, severity, len(found), f"Files that {means}: {len(found):,}.", way_out, groups)


def times(count: int) -> str:
    """Return how often in words."""
    return "Once" if count == 1 else f"{count:,} times"


def of_copies(pictures: Pictures, copies: Copies) -> Iterator[Finding]:
    """Yield findings about copies. Each group stands under the gravest of what is wrong with it."""
    for how, groups in (("exact", copies.exact), ("near", copies.near)):
        # Of a group that is in two parts and two classes, both are said.
        parted = [group for group in groups if len(set(pictures.parts[group].tolist())) > 1]
        classed = [group for group in groups if len(set(pictures.labels[group].tolist())) > 1]
        grave = {id(group) for group in (*parted, *classed)}
        alike = "the same image" if how == "exact" else "nearly the same image"
        severity: Severity = "error" if how == "exact" else "warning"
        if parted:
            yield finding_of(
                pictures, f"{how} copies in two parts", severity, parted, leak_text(pictures, parted, alike)
            )
        if classed:
            yield finding_of(
                pictures, f"{how} copies in two classes", severity, classed, class_text(pictures, classed, alike)
            )
        if plain := [group for group in groups if id(group) not in grave]:
            spare = sum(len(group) - 1 for group in plain)
            text = (
                f"{spare:,} of the images {'repeat' if how == 'exact' else 'nearly repeat'} another one of their class"
                " and part, which counts double in training and in scores.",
                "Keep one of each group."
                if how == "exact"
                else "Keep one of each group, or give their group to --group-by, so that a split keeps them together.",
            )
            yield finding_of(pictures, f"{how} copies", "warning" if how == "exact" else "note", plain, text)
    if copies.cut:
        yield Finding(
            "comparison cut short",
            "note",
            0,
            "So many images have similar hashes that each was compared with its nearest neighbours only.",
            "Near copies may have been missed; exact ones were not.",
        )


def finding_of(
    pictures: Pictures, kind: str, severity: Severity, groups: Iterable[Group], text: tuple[str, str]
) -> Finding:
    """Return a finding about groups of copies."""
    found = tuple(tuple(example(pictures, int(row), place(pictures, int(row))) for row in group) for group in groups)
    return Finding(kind, severity, sum(map(len, found)), *text, found)


def place(pictures: Pictures, row: int) -> str:
    """Return the part and the class of an image in words."""
    return f"{pictures.parts[row]}, {pictures.classes[int(pictures.labels[row])]}"


def leak_text(pictures: Pictures, groups: Sequence[Group], alike: str) -> tuple[str, str]:
    """Return what leaks between parts, and the way out."""
    pairs = Counter(" and ".join(sorted(set(pictures.parts[group].tolist()))) for group in groups)
    where = ", ".join(f"{count:,} in {parts}" for parts, count in pairs.most_common())
    return (
        f"{times(len(groups))} {alike} is in two parts ({where}): scores on what was trained on are too good.",
        "Delete the copies from the training part, or let the whole be split anew, with --group-by for images that"
        " belong together.",
    )


def class_text(pictures: Pictures, groups: Sequence[Group], alike: str) -> tuple[str, str]:
    """Return which classes share images, and the way out."""
    pairs = Counter(
        " and ".join(sorted({pictures.classes[label] for label in pictures.labels[group].tolist()})) for group in groups
    )
    named = in_words([f"{names}: {count:,}" for names, count in pairs.most_common()])
    return (
        f"{times(len(groups))} {alike} is in two classes ({named}): one of the labels is wrong.",
        "Look at each, keep it in one class and delete it from the other.",
    )
