"""`scan`: the files of a folder or a table, their headers, and the parts that they are divided into."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from foveal.data.dataset import Labels
from foveal.data.decoding import images
from foveal.data.decoding.images import Header, ImageError
from foveal.data.decoding.members import Member
from foveal.data.decoding.pixels import WHITE, Colour
from foveal.data.scanning import parquet, shards, splits, tables
from foveal.data.scanning.image_files import REFUSED, ImageFiles
from foveal.data.scanning.listing import (
    NOT_READ,
    TEST,
    TRAIN,
    VALIDATION,
    Found,
    Listing,
    Problem,
    extensions,
    in_order,
    looks_like_image,
    of_folder,
)
from foveal.data.scanning.membership import Division
from foveal.data.threads import Bar
from foveal.data.threads import in_order as computed_in_order
from foveal.errors import ArgumentError, DataError

# Places whose images lie inside of other files.
PACKED: tuple[tuple[Callable[[Path], bool], Callable[[Path, bool], Listing]], ...] = (
    (shards.holds_shards, shards.of_shards),
    (parquet.holds_parquet, parquet.of_parquet),
)
# Headers that a thread reads at a time.
_CHUNK = 64


def scan(
    path: str | Path,
    *,
    group_by: str | None = None,
    split: float | tuple[float, float] | None = None,
    seed: int = 0,
    strict: bool = False,
    background: Colour = WHITE,
    before: Division | None = None,
    quiet: bool = False,
) -> ImageFiles:
    """List the image files of a data set, read their headers, and divide them into parts. Nothing is decoded.

        files = foveal.data.scan("photos", group_by=r"^(\\w+?)_")  # ann_01.jpg and ann_02.jpg stay together
        print(files)

    path: a folder with a folder of images for each class, and above these, if there are any, train, val (valid,
    validation) and test; a table, .csv, .tsv or .jsonl, with the columns path, label and, where there are parts, split;
    a .tar shard, as WebDataset names what is in it, or a .parquet file, as Hugging Face writes it, or a folder of such
    files. The docstrings of `foveal.data.scanning.listing`, `tables`, `shards` and `parquet` have the rules.

    split: the shares of all images for (validation, testing), or that for testing alone; (0.1, 0.2) if None. It counts
    for parts that are not there, which are taken from the training part with the same share of each class, by `seed`.
    group_by: a regular expression: files in whose names its brackets match the same, or the whole pattern without
    brackets, are a group, such as the photos of one person, and are never in two parts. A pattern with a / is looked
    for in the path below the folder.

    Files that are no images, damaged or hostile are left out and listed in `problems`; strict: True to raise DataError
    for those that should be images. background: the colour under what is transparent, (red, green, blue). before:
    how a run had divided the files, which they keep, whatever the options say, also where a table was trained on and
    its folder is given here; files that it did not have are in the part of their folder or group, else for testing.
    quiet: True for no bar.

    Raises DataError where there are no images or fewer than two classes, for a class that is not in the training part,
    and for folders and tables that cannot be read, ArgumentError for shares that cannot be.
    """
    shares = checked_shares(split)
    if len(background) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in background):
        raise ArgumentError(f"scan: background is {background}; give (red, green, blue) from 0 to 255")
    place = Path(path)
    listing = listed(place, quiet)
    check_strict(listing.problems, strict)
    found, headers = with_headers(listing, strict, quiet)
    if not found:
        raise DataError(f"{place}: none of its {len(listing.found):,} files is an image that can be read")
    classes = in_order(file.label for file in found)
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[file.label] for file in found], np.int64)
    # Classes are those of files that can be read; one that has none of these is a problem that is said, and no class.
    lost = in_order({file.label for file in listing.found} - set(classes))
    listing.problems += [
        Problem(name, "empty class", "none of its files is an image that can be read") for name in lost
    ]
    if len(classes) == 1:
        unread = f", and of the others, such as {lost[0]!r}, no file is an image that can be read" if lost else ""
        raise DataError(
            f"{place}: all {len(found):,} images are of one class, {classes[0]!r}{unread}; at least two classes are"
            " needed: a folder for each, and if these lie deeper, give the folder that they lie in"
        )
    folder = place if place.is_dir() else place.parent
    parts, division = divided(found, labels, shares, seed, group_by, folder, before)
    check_parts(place, labels, classes, parts)
    return ImageFiles(
        name=place.resolve().stem if place.is_file() else place.resolve().name,
        paths=[file.path for file in found],
        labels=labels,
        classes=classes,
        parts=parts,
        sizes=np.array([(header.width, header.height) for header in headers], np.int64),
        channels=1 if all(header.is_grey for header in headers) else 3,
        problems=listing.problems,
        stamps=np.array([(file.bytes, file.changed) for file in found], np.int64),
        division=division,
        folder=str(folder),
        background=background,
        strict=strict,
    )


def divided(
    found: Sequence[Found],
    labels: Labels,
    shares: tuple[float, float],
    seed: int,
    group_by: str | None,
    folder: Path,
    before: Division | None,
) -> tuple[splits.Parts, str]:
    """Return the part of each file, as a run had it where it knows any of them, and in words how that came about."""
    given, names = [file.part for file in found], [file.relative for file in found]
    paths, sizes = [file.path for file in found], [file.bytes for file in found]
    keys = [] if before is None else before.keys(paths, sizes, str(folder))
    if before is not None and (old := before.knows(keys)):
        group_by = group_by or before.group_by
        groups = None if group_by is None else splits.group_names(group_by, names)
        new = f"; {len(found) - old:,} of them are new since" if old < len(found) else ""
        return before.of(keys, given, groups), f"as in the training{new}"
    groups = None if group_by is None else splits.group_names(group_by, names)
    said = in_words(given, shares, seed, group_by)
    if before is not None and before.parts:
        said += "; none of these files was in the training, by name and size"
    return splits.divide(labels, given, groups, shares, seed), said


def is_scanned(path: Path) -> bool:
    """Return True for a folder, and for a file with the extension of a table."""
    return path.is_dir() or (path.suffix.lower() in tables.SEPARATORS and path.is_file())


def listed(place: Path, quiet: bool = True) -> Listing:
    """Return the files of a folder in the order of their paths, of a table in that of its lines, of shards as they lie.

    Raises DataError for a place that is none of these, and for one with shards of two kinds.
    """
    packed = [read for holds, read in PACKED if holds(place)]
    if len(packed) > 1:
        raise DataError(f"{place}: holds tar shards and parquet files; put each data set into a folder of its own")
    if packed:
        return packed[0](place, quiet)
    if place.is_dir():
        return of_folder(place)
    if place.suffix.lower() in tables.SEPARATORS and place.is_file():
        return tables.of_table(place)
    known = ", ".join(tables.SEPARATORS)
    what = (
        "is neither a folder, a table of images, a .tar shard nor a .parquet file"
        if place.exists()
        else "there is no such folder or file"
    )
    raise DataError(f"{place}: {what}; give a folder with a folder for each class, or a table ({known})")


def with_headers(listing: Listing, strict: bool, quiet: bool) -> tuple[list[Found], list[Header]]:
    """Return the files that are images, with their headers; what is wrong with the others goes to the problems.

    Raises DataError for the first one that is damaged if `strict`.
    """
    found: list[Found] = []
    headers: list[Header] = []
    chunks = [listing.found[i : i + _CHUNK] for i in range(0, len(listing.found), _CHUNK)]
    # Warnings are ignored once, and not for each image.
    with Bar("reading the headers of", len(listing.found), "files", quiet) as bar, images.without_warnings():
        for chunk, results in zip(chunks, computed_in_order(headers_of, chunks), strict=True):
            for file, result in zip(chunk, results, strict=True):
                if isinstance(result, Header):
                    found.append(file)
                    headers.append(result)
                    listing.problems += remarks(file.path, result)
                else:
                    check_strict([result], strict)
                    listing.problems.append(result)
            bar.advance(len(chunk))
    return found, headers


def check_strict(problems: Iterable[Problem], strict: bool) -> None:
    """Raise DataError for the first file that is left out because of what is in it, if `strict`."""
    for problem in problems:
        if strict and problem.kind in REFUSED:
            raise DataError(f"{problem.path}: {problem.text}; repair it or take it away, as strict is on")


def headers_of(files: Sequence[Found]) -> list[Header | Problem]:
    """Return the header of each file, or what is wrong with it."""
    return [header_of(file) for file in files]


def header_of(file: Found) -> Header | Problem:
    """Return the header of a file, or what is wrong with it."""
    if file.bytes == 0:
        return Problem(file.path, "truncated" if looks_like_image(file.path) else "no image", "an empty file")
    try:
        return images.header(file.path)
    except ImageError as error:
        # What lies in a column of images, or beside a class in a shard, should be one.
        if error.kind != images.NO_IMAGE or not (isinstance(file.path, Member) or looks_like_image(file.path)):
            return Problem(file.path, error.kind, error.text)
        extension = os.path.splitext(file.path)[1].lower()
        text = f"is {extension}, which is not read; convert it to JPEG or PNG" if extension in NOT_READ else error.text
        return Problem(file.path, images.UNREADABLE, text)


def remarks(path: str, header: Header) -> list[Problem]:
    """Return what is to be said of an image that is read."""
    found: list[Problem] = []
    extension = os.path.splitext(path)[1].lower()
    if extensions().get(extension, header.format) != header.format:
        found.append(Problem(path, "wrong extension", f"is called {extension} and is {header.format}"))
    if header.scaled_from is not None:
        low, high = header.scaled_from
        text = f"holds values from {low:g} to {high:g}, of which none is defined to be white; scaled from these"
        found.append(Problem(path, "scaled", text))
    return found


def checked_shares(split: float | tuple[float, float] | None) -> tuple[float, float]:
    """Return the shares for validation and testing. Raises ArgumentError for what cannot be shares."""
    if split is None:
        return splits.SHARES
    shares = (splits.SHARES[0], float(split)) if isinstance(split, int | float) else tuple(map(float, split))
    if len(shares) != 2 or not all(0 <= share < 1 for share in shares) or sum(shares) >= 1 or shares[1] == 0:
        raise ArgumentError(
            f"scan: split is {split}; give the shares for validation and for testing, such as (0.1, 0.2), of which the"
            " second is more than 0 and both together are less than 1"
        )
    return shares[0], shares[1]


def check_parts(place: Path, labels: Labels, classes: tuple[str, ...], parts: splits.Parts) -> None:
    """Raise DataError unless each class has images for training, and there are some for testing."""
    lacking = np.flatnonzero(np.bincount(labels[parts == TRAIN], minlength=len(classes)) == 0)
    if len(lacking):
        where = parts[labels == lacking[0]][0]
        raise DataError(
            f"{place}: the class {classes[lacking[0]]!r} has images in the {where} part alone; add some for training,"
            " or take it away"
        )
    if TEST not in parts:
        raise DataError(f"{place}: {len(labels)} images are too few to keep some for testing; give more of each class")


def in_words(given: Sequence[str | None], shares: tuple[float, float], seed: int, group_by: str | None) -> str:
    """Return how the parts came about."""
    there = [part for part in (TRAIN, VALIDATION, TEST) if part in given]
    drawn = [
        f"{share:.0%} for {part}"
        for part, share in zip((VALIDATION, TEST), shares, strict=True)
        if part not in given and share
    ]
    by = "" if group_by is None else f" by groups {group_by!r}"
    words = [f"{', '.join(there)} as given"] if there else []
    return "; ".join(words + ([f"{' and '.join(drawn)} drawn with seed {seed}{by}"] if drawn else []))
