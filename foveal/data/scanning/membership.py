"""Which part of a data set each image file was in when a run began, so that the same images are held out later.

A file is known by its size and its path below the folder that all files have in common, of which 48 bits of a digest
are kept, 8 letters. So a data set may be moved, and others may grow beside it, and no training image is taken for a
test image. Files that
were trained on by a table are known when their folder is given later, and the other way round.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foveal.data.decoding.members import Member, file_of
from foveal.data.scanning.listing import TEST, TRAIN, VALIDATION
from foveal.data.scanning.splits import Parts

# Bytes of a digest that are kept, and the letters that they are.
_BYTES, _LETTERS = 6, 8


def file_key(path: str, folder: str, size: int) -> str:
    """Return the letters that stand for a file of so many bytes. folder: what its path is taken below."""
    name = os.path.relpath(path, folder).replace(os.sep, "/")
    # A table may list files that lie beside its folder.
    while name.startswith("../"):
        name = name[3:]
    return letters(name, size)


def letters(name: str, size: int) -> str:
    """Return the letters that stand for a name and so many bytes."""
    digest = hashlib.sha256(f"{name}\0{size}".encode("utf-8", "surrogateescape")).digest()
    return base64.b64encode(digest[:_BYTES]).decode()


def written_parts(files: Mapping[str, Sequence[str]], folder: str) -> dict[str, str]:
    """Return the files of each part as one text each, for run.json; a file that is gone has the size -1.

    folder: of the data set, or of the table that lists them.
    """
    base = common_folder([path for paths in files.values() for path in paths], folder)
    return {part: "".join(file_key(path, base, size_of(path)) for path in paths) for part, paths in files.items()}


def common_folder(paths: Sequence[str], folder: str) -> str:
    """Return the deepest folder below which all files lie, with a folder above each: a table's images may be moved.

    `folder` where there is none below it, and for images inside of other files.
    """
    if any(isinstance(path, Member) for path in paths):
        return folder
    places, root = {os.path.dirname(os.path.abspath(path)) for path in paths}, os.path.abspath(folder)
    base = os.path.commonpath(places) if places else root
    # The name of a file alone, such as 1.png, would be found in many a data set.
    base = os.path.dirname(base) if base in places else base
    return base if os.path.commonpath([base, root]) == root else folder


def size_of(path: str) -> int:
    """Return the bytes of a file, of an image in a shard those of the shard; -1 where there is none."""
    try:
        return os.stat(file_of(path)).st_size
    except OSError:
        return -1


@dataclass(frozen=True)
class Division:
    """How a run had its image files divided."""

    #: By the letters of each file, its part. Of a file that stands in several parts, the training part counts.
    parts: dict[str, str] = field(default_factory=dict)
    #: The pattern of its groups, if it had some.
    group_by: str | None = None

    @classmethod
    def read(cls, written: object, group_by: object) -> Division:
        """Return the division of what `written_parts` returned; without any file where it is something else."""
        known: dict[str, str] = {}
        entries: Mapping[Any, Any] = written if isinstance(written, Mapping) else {}
        for part in (TEST, VALIDATION, TRAIN):
            text = entries.get(part)
            if isinstance(text, str):
                known |= {text[i : i + _LETTERS]: part for i in range(0, len(text), _LETTERS)}
        return cls(known, group_by if isinstance(group_by, str) else None)

    def knows(self, keys: Sequence[str]) -> int:
        """Return how many of the files, by their letters, the run had."""
        return sum(key in self.parts for key in keys)

    def keys(self, paths: Sequence[str], sizes: Sequence[int], folder: str) -> list[str]:
        """Return the letters of each file, of so many bytes: below `folder`, if the run had some of them there.

        Else below the one of the folders that they lie in, at any depth, below which the run had most of them.
        """
        keys = [file_key(path, folder, size) for path, size in zip(paths, sizes, strict=True)]
        if not self.parts or self.knows(keys):
            return keys
        found: Counter[str] = Counter()
        for path, size in zip(paths, sizes, strict=True):
            base, *names = os.path.abspath(path).split(os.sep)
            for i in range(len(names) - 1, -1, -1):
                if letters("/".join(names[i:]), size) in self.parts:
                    found[os.sep.join([base, *names[:i], ""])] += 1
        if not found:
            return keys
        ((best, _),) = found.most_common(1)
        return [file_key(path, best, size) for path, size in zip(paths, sizes, strict=True)]

    def of(self, keys: Sequence[str], given: Sequence[str | None], groups: Sequence[str] | None) -> Parts:
        """Return the part of each file as the run had it.

        keys: the letters of each file; given: its part, where its folder or table says it; groups: its group. A file
        that the run did not have is in the part that is given, or in that of its group, and else for testing.
        """
        found = [self.parts.get(key) for key in keys]
        beside = groups or keys
        of_group: dict[str, str] = {}
        for part, group in zip(found, beside, strict=True):
            # Where a group is in several parts, its images are like some that were trained on.
            if part is not None and of_group.get(group) != TRAIN:
                of_group[group] = part
        every = zip(found, given, beside, strict=True)
        return np.array([part or told or of_group.get(group, TEST) for part, told, group in every], dtype="<U10")
