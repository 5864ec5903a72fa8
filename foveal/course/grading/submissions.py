"""Submissions: where they are, what belongs to them, and copies that their functions run in."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal.course.handout import MODULES
from foveal.errors import DataError

# In a folder of grades, which is no part of a submission: what marks it, and the table of all grades.
MARK, TABLE = ".foveal-grades", "grades.csv"
# Of one submission. Exercises are a few files of text, and data that come with them.
MOST_FILES, MOST_BYTES = 500, 32 * 10**6
# Folders below each other in which exercises are looked for, such as the one that an archive was unpacked into.
DEEP = 4


@dataclass(frozen=True)
class Submission:
    """What somebody has handed in."""

    #: the name of the folder
    name: str
    #: where its exercises are; None if there are none
    folder: Path | None


def exercises_in(folder: Path) -> bool:
    """Return whether a file of the assignment lies in a folder."""
    return any((folder / f"{module}.py").is_file() for module in MODULES)


def inner_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that may hold submissions, by name."""
    return sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink() and not is_left_out(entry)
    )


def is_left_out(folder: Path) -> bool:
    """Return whether a folder is no part of a submission: hidden, caches of Python, an environment, grades."""
    marks = (MARK, "pyvenv.cfg")
    return folder.name.startswith((".", "__")) or any((folder / mark).exists() for mark in marks)


def exercises_below(folder: Path) -> Path | None:
    """Return the folder nearest to this one that holds exercises; None if there is none."""
    level = [folder]
    for _ in range(DEEP):
        for one in level:
            if exercises_in(one):
                return one
        level = [inner for one in level for inner in inner_folders(one)]
    return None


def submissions_in(paths: Sequence[Path]) -> list[Submission]:
    """Return the submissions that paths name: each is one, or a folder of them.

    In a folder of submissions, each folder is one, also if no exercise is found in it. Raises DataError for what is no
    folder, for one without any exercises, for two of the same name, and for one that is called as the table of grades.
    """
    if not paths:
        raise DataError("no submission is given; give the folder of one, or a folder of such folders")
    found: list[Submission] = []
    for path in paths:
        if not path.is_dir():
            raise DataError(f"{path} is no folder; give the folder of a submission, or a folder of such folders")
        if exercises_in(path):
            found.append(Submission(path.resolve().name or "submission", path))
            continue
        inner = [Submission(folder.name, exercises_below(folder)) for folder in inner_folders(path)]
        if not any(one.folder for one in inner):
            raise DataError(
                f"{path} holds no exercise, and no folder with any; a submission is a folder with files such as"
                f" {MODULES[1]}.py, as `foveal course new` writes them"
            )
        found += inner
    places: dict[str, Path | None] = {}
    for one in found:
        if one.name.casefold() == TABLE:
            raise DataError(
                f"a submission is called {one.name}, as the table of all grades is; rename its folder, since grades are"
                " kept by name"
            )
        # Some systems take names for the same that differ in capitals.
        if one.name.casefold() in places:
            raise DataError(
                f"two submissions are called {one.name}: {places[one.name.casefold()]} and {one.folder}; rename one of"
                " the folders, since grades are kept by name"
            )
        places[one.name.casefold()] = one.folder
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a submission, by path. Raises DataError for more than an assignment can have."""
    found: dict[str, bytes] = {}
    size = 0
    for path in paths_below(folder):
        size += path.stat().st_size
        if len(found) == MOST_FILES or size > MOST_BYTES:
            raise DataError(f"It has more than {MOST_FILES} files, or than {MOST_BYTES / 1e6:g} MB.")
        found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def paths_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below, without links, hidden files and what is no part of a submission."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name.startswith("."):
            continue
        if path.is_dir():
            if not is_left_out(path):
                yield from paths_below(path)
        elif path.is_file():
            yield path


def digest(files: dict[str, bytes], *settings: object) -> str:
    """Return what tells files and settings apart from others."""
    found = hashlib.sha256(repr(settings).encode())
    for name, content in sorted(files.items()):
        found.update(f"\n{len(content)} {name}\n".encode("utf-8", "surrogateescape"))
        found.update(content)
    return found.hexdigest()


def write_copy(files: dict[str, bytes], folder: Path) -> None:
    """Write the files of a submission into a folder."""
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def remove(folder: Path) -> None:
    """Remove a copy, also one whose folders were closed to others."""
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
