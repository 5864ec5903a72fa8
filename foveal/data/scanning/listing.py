"""Which image files a folder holds, and what its folders say about them: class and part.

The rules:

- Each folder is a class, and its name that of the class. Images of a class may lie in folders below it, at any depth.
- Folders named train or training, val, valid or validation, and test or testing, in any case, are parts if one of them
  is for training; the folders of classes then are in them.
- What lies beside the folders of classes has no class, and is left out. So are hidden files and folders, and those that
  systems leave behind.
- Links are followed; one that leads back to a folder that it lies in is left out.
- Names of classes are text, in Unicode's composed form (NFC): macOS stores "é" in two letters, others in one.
- Classes are in the order of their names, and of their numbers if all names are numbers; images in that of their paths.

What is left out is named in a Problem each.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from foveal.errors import DataError

#: The parts of a data set, by name.
TRAIN, VALIDATION, TEST = "train", "validation", "test"
# Names of folders, and of parts in tables, in lower case.
PART_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
# What Windows, macOS and others leave in folders, in lower case.
_LEFTOVERS = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "icon\r")
# Folders in each other, at most.
_DEPTH = 64


class Problem(NamedTuple):
    """What is wrong with one file or folder, or is to be said about it."""

    path: str
    #: "unreadable", "truncated", "hostile", "missing" or "no image" for a file that is left out because of what is in
    #: it; "hidden", "no class", "empty class" or "link" for what is left out because of where it is; "wrong extension"
    #: or "scaled" for an image that is read.
    kind: str
    text: str


class NoImagesError(DataError):
    """A folder holds no images at all, and may be one of another kind."""


@dataclass(frozen=True)
class Found:
    """An image file that was found, whose content is not known yet."""

    path: str
    #: the name of the class
    label: str
    #: None where nothing says to which part it belongs
    part: str | None
    #: below the folder or beside the table, with "/" between the folders: what groups are found in
    relative: str
    #: bytes, and when it was changed, in nanoseconds
    bytes: int
    changed: int


@dataclass
class Listing:
    """The files of a data set, and what is left out."""

    found: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def of_folder(folder: Path) -> Listing:
    """Return the files of a folder by the rules above. Raises DataError where it holds no folders of classes."""
    listing = Listing()
    folders, files = entries(str(folder), listing)
    loose, parts = list(files), parts_in(folder, folders)
    # (part, the folder of a class)
    classes: list[tuple[str | None, os.DirEntry[str]]] = [] if parts else [(None, entry) for entry in folders]
    for part, place in parts:
        inside, beside = entries(place.path, listing)
        classes += [(part, entry) for entry in inside]
        loose += beside
    for part, entry in classes:
        label = class_name(entry.name, entry.path)
        before = len(listing.found)
        for file in walk(entry.path, listing, (os.path.realpath(entry.path),)):
            status = file.stat()
            relative = os.path.relpath(file.path, folder).replace(os.sep, "/")
            listing.found.append(Found(file.path, label, part, relative, status.st_size, status.st_mtime_ns))
        if len(listing.found) == before:
            listing.problems.append(Problem(entry.path, "empty class", "a folder without files"))
    images = [entry for entry in loose if looks_like_image(entry.name)]
    if not listing.found:
        raise no_classes(folder, len(images))
    for entry in loose:
        is_image = entry in images
        text = "lies beside the folders of classes" if is_image else "no image"
        listing.problems.append(Problem(entry.path, "no class" if is_image else "no image", text))
    return listing


def parts_in(folder: Path, folders: list[os.DirEntry[str]]) -> list[tuple[str | None, os.DirEntry[str]]]:
    """Return the folders of parts, each after the part; none where no part is for training.

    Raises DataError where parts lie beside other folders, or two folders are the same part.
    """
    named = [(PART_NAMES[entry.name.lower()], entry) for entry in folders if entry.name.lower() in PART_NAMES]
    if TRAIN not in (part for part, _ in named):
        return []
    others = [entry.name for entry in folders if entry.name.lower() not in PART_NAMES]
    if others:
        raise DataError(
            f"{folder}: holds the parts {', '.join(entry.name for _, entry in named)} and beside them the folder"
            f" {others[0]!r}; move it into the parts that it is a class of, or away"
        )
    for part, entry in named:
        if twice := [other.name for known, other in named if known == part and other.name != entry.name]:
            raise DataError(f"{folder}: {entry.name!r} and {twice[0]!r} are the same part; put them into one folder")
    return list(named)


def no_classes(folder: Path, loose: int) -> DataError:
    """Return the error that a folder has no folders of classes with files in them."""
    if loose:
        return DataError(
            f"{folder}: holds {loose} images and no folders of classes; put the images of each class into a folder with"
            " its name, or give a CSV file with the columns path and label"
        )
    return NoImagesError(f"{folder}: holds no images; give a folder with a folder of images for each class")


def entries(folder: str, listing: Listing) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
    """Return the folders and the files in a folder, each in the order of their names, without what is hidden.

    Raises DataError where the folder cannot be read.
    """
    folders: list[os.DirEntry[str]] = []
    files: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name.lower() in _LEFTOVERS:
                    listing.problems.append(Problem(entry.path, "hidden", "hidden, or left by the system"))
                elif entry.is_dir():
                    folders.append(entry)
                elif entry.is_file():
                    files.append(entry)
                else:
                    what = "a link to nothing" if entry.is_symlink() else "no regular file"
                    listing.problems.append(Problem(entry.path, "link" if entry.is_symlink() else "no image", what))
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be read: {error.strerror or error}; make it readable, or move it away"
        ) from None
    return folders, files


def walk(folder: str, listing: Listing, above: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    """Yield the files of a folder and of all below it. above: where the folder and those that it lies in really are."""
    if len(above) > _DEPTH:
        raise DataError(f"{folder}: more than {_DEPTH} folders in each other; move the images up")
    folders, files = entries(folder, listing)
    yield from files
    for entry in folders:
        place = os.path.join(above[-1], entry.name)
        if entry.is_symlink():
            place = os.path.realpath(entry.path)
            if any(f"{up}{os.sep}".startswith(f"{place}{os.sep}") for up in above):
                listing.problems.append(Problem(entry.path, "link", "leads back to a folder that it lies in"))
                continue
        yield from walk(entry.path, listing, (*above, place))


def class_name(name: str, path: str) -> str:
    """Return the name of a class as it is kept. Raises DataError for one that is no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{path}: the name of this class is no UTF-8; give it another name, since model files store it as text"
        ) from None
    composed = unicodedata.normalize("NFC", name)
    if not composed.strip():
        raise DataError(f"{path}: the name of this class is empty; give it a name")
    return composed


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of classes, each once, in their order: of numbers if all are numbers, else of the alphabet."""
    different = sorted(set(names))
    return tuple(sorted(different, key=int) if all(name.isdecimal() for name in different) else different)


def looks_like_image(name: str) -> bool:
    """True for the name of a file with an extension of an image format."""
    extension = os.path.splitext(name)[1].lower()
    return extension in extensions() or extension in NOT_READ


#: Extensions of image formats that are not read.
NOT_READ = (".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf")


@cache
def extensions() -> dict[str, str]:
    """Return Pillow's name of the format for each extension of a format that is read."""
    from PIL import Image

    from foveal.data.decoding.images import known_formats

    formats = known_formats()
    return {extension: name for extension, name in Image.registered_extensions().items() if name in formats}
