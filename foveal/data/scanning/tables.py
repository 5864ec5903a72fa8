"""Tables of images: CSV, TSV or JSON lines with a path and a label for each image, and a part where it has one.

Columns are path (also file, file_name, filename, image), label (class, category, target) and split (part, set, subset),
in any case and order; others are left aside. A CSV file without such a first line holds path, label and, if there are
three columns, the part. Paths are relative to the folder of the table. Labels are names of classes, also where they are
numbers. Text is UTF-8.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

from foveal.data.files import read_limited
from foveal.data.scanning.listing import PART_NAMES, Found, Listing, Problem, class_name
from foveal.errors import DataError

COLUMNS = {
    "path": ("path", "file", "file_name", "filename", "filepath", "image"),
    "label": ("label", "class", "category", "target"),
    "split": ("split", "part", "set", "subset"),
}
#: By extension: how the cells of a line are separated; None for JSON lines.
SEPARATORS: dict[str, str | None] = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".ndjson": None}
# Bytes of a table: ten million lines.
_LIMIT = 1 << 30
# A row: the number of its line, path, label, part as they are written.
Row = tuple[int, str, str, str]


def of_table(path: Path) -> Listing:
    """Return the files that a table lists. Raises DataError, with the number of the line, for what is wrong in it."""
    text = decoded(path)
    separator = SEPARATORS[path.suffix.lower()]
    rows = json_rows(path, text) if separator is None else csv_rows(path, text, separator)
    listing, seen = Listing(), dict[str, tuple[int, str]]()
    for line, name, label, part in rows:
        if not name or not label:
            raise DataError(f"{path}: line {line} has no {'label' if name else 'path'}; each image needs both")
        if part and part.lower() not in PART_NAMES:
            raise DataError(f"{path}: line {line}: the part is {part!r}; write train, validation or test")
        label = class_name(label, f"{path}: line {line}")
        place = os.path.join(path.parent, name)
        # One file under two spellings, such as a.jpg and ./a.jpg, is the same image.
        first, known = seen.setdefault(os.path.normpath(place), (line, label))
        if first != line:
            same = "twice" if known == label else f"as {known!r} and as {label!r}"
            raise DataError(f"{path}: lines {first} and {line} list {name} {same}; leave one out")
        try:
            status = os.stat(place)
        except (OSError, ValueError) as error:
            text = f"line {line} lists it: {getattr(error, 'strerror', None) or error}"
            listing.problems.append(Problem(place, "missing", text))
            continue
        known_part = PART_NAMES[part.lower()] if part else None
        listing.found.append(Found(place, label, known_part, name, status.st_size, status.st_mtime_ns))
    if not listing.found:
        missing = f"; {listing.problems[0].path} is not there" if listing.problems else ""
        raise DataError(f"{path}: lists no image that is there{missing}: paths are relative to {path.parent}")
    return listing


def decoded(path: Path) -> str:
    """Return the text of a table, which may begin with a byte order mark."""
    try:
        return read_limited(path, _LIMIT, "a table of images").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 (byte {error.start}); save it as UTF-8") from None


def csv_rows(path: Path, text: str, separator: str) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file. Spreadsheets of some languages write ; between cells."""
    first = text.partition("\n")[0]
    if separator == "," and "," not in first and ";" in first:
        separator = ";"
    reader = csv.reader(text.splitlines(), delimiter=separator, strict=True)
    places: dict[str, int] | None = None
    try:
        for cells in reader:
            row = [cell.strip() for cell in cells]
            if not any(row):
                continue
            if places is None:
                # The first line names the columns, or is an image: path, label and, if there are three cells, part.
                places = columns(row)
                if places:
                    continue
                if len(row) not in (2, 3):
                    raise DataError(
                        f"{path}: the first line has {len(row)} cells and no column path; begin it with: path,label"
                    )
                places = dict(zip(COLUMNS, range(len(row)), strict=False))
            if max(places.values()) >= len(row):
                raise DataError(f"{path}: line {reader.line_num} has {len(row)} cells, fewer than the line of columns")
            path_, label, part = (row[places[name]] if name in places else "" for name in COLUMNS)
            yield reader.line_num, path_, label, part
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; is it a CSV file?") from None


def columns(names: list[str]) -> dict[str, int]:
    """Return the places of the columns by their names; none where path and label are not among them."""
    lower = [name.lower() for name in names]
    places = {
        column: lower.index(known) for column, words in COLUMNS.items() for known in reversed(words) if known in lower
    }
    return places if {"path", "label"} <= places.keys() else {}


def json_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the rows of a file with a JSON object in each line."""
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        try:
            entry = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {line} is no JSON ({error})") from None
        places = columns(list(entry)) if isinstance(entry, dict) else {}
        if not places:
            raise DataError(f'{path}: line {line} is no object like {{"path": "a.jpg", "label": "cat"}}')
        values = list(entry.values())
        cells = [values[places[name]] if name in places else "" for name in COLUMNS]
        # null is nothing
        name, label, part = ("" if cell is None else str(cell) for cell in cells)
        if not isinstance(cells[1], str | int) or not isinstance(cells[0], str):
            raise DataError(f"{path}: line {line}: path and label have to be texts, or the label a whole number")
        yield line, name, label, part
