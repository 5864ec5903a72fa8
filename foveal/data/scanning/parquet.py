"""Images in parquet files, as Hugging Face's `datasets` writes them: a file, or a folder of them.

The rules:

- The column of images holds the bytes of image files, or structs of {bytes, path}. It is the one whose type the
  file's metadata says is Image; without such metadata the one of that kind that is called image or img, or the only
  one.
- The column of classes is the one that is a ClassLabel by the metadata, which has the names, or is called label (class,
  category, target, cls) and holds texts or whole numbers. Rows with null or -1 have no class, and are left out.
- Files are of the part that their names say, such as `train-00000-of-00002.parquet`, as tar shards are; they lie in the
  folder, in folders of that name, or in `data`.

A row is read with its row group, a hundred images where `datasets` has written it, of which the last ones that were
read stay in memory. So images are read fast in their order, and may not stream in another one.
"""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple, Self, cast

from foveal import forks
from foveal.data.decoding.members import Member
from foveal.data.scanning import tables
from foveal.data.scanning.listing import Found, Listing, Problem, class_name
from foveal.data.scanning.shards import parts_of, shards_of
from foveal.errors import DataError, PackageError
from foveal.system import total_memory

PARQUET = ".parquet"
# Names of columns without metadata.
_IMAGES, _LABELS = ("image", "img"), ("cls", *tables.COLUMNS["label"])
# Row groups that stay in memory: so many bytes of them, at least two; the share of the memory that one may take.
_HELD_BYTES, _HELD, _GROUP_SHARE = 256 << 20, 2, 0.125
# The class of images that have none, in Hugging Face's data sets.
_NO_CLASS = -1


def arrow() -> ModuleType:
    """Return pyarrow. Raises PackageError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise PackageError(
            f"parquet files are read by pyarrow, which cannot be imported here ({error}): pip install"
            " 'foveal[parquet]', or pip install pyarrow"
        ) from None
    return cast(ModuleType, pyarrow)


def holds_parquet(place: Path) -> bool:
    """Return True for a parquet file, and for a folder of them."""
    return bool(shards_of(within(place), PARQUET))


def within(place: Path) -> Path:
    """Return the place of the files: repositories of data sets have them in a folder `data`."""
    inner = place / "data"
    return inner if inner.is_dir() and not shards_of(place, PARQUET) and shards_of(inner, PARQUET) else place


class Columns(NamedTuple):
    """Where the images and the classes of a parquet file are."""

    #: the column with the bytes, as parquet names it, and that of the names of the files, if there is one
    content: str
    path: str | None
    label: str
    #: of the classes by number, where the file has them
    names: tuple[str, ...] | None


class Row(Member):
    """The address of an image in a row of a parquet file."""

    __slots__ = ("column", "group", "row")

    in_any_order = False
    column: str
    #: the row group, and the row in it
    group: int
    row: int

    @classmethod
    def at(cls, file: str, name: str, column: str, group: int, row: int) -> Self:
        """Return the address of a row. column: with the bytes."""
        self = cls(file, name)
        self.column, self.group, self.row = column, group, row
        return self

    def open(self) -> BinaryIO:
        changed = os.stat(self.file).st_mtime_ns
        # What was being read when the process was forked has no thread that reads it in the child.
        key = os.getpid(), os.path.abspath(self.file), changed, self.column, self.group
        values = held().get(key, lambda: read_group(self.file, self.column, self.group))
        content = values[self.row].as_py()
        if content is None:
            raise OSError("the row holds no bytes")
        return io.BytesIO(content)


class Held:
    """The row groups that were read last."""

    def __init__(self, limit: int) -> None:
        # in bytes
        self.limit = limit
        self.groups: OrderedDict[object, Future[Any]] = OrderedDict()
        self.turn = forks.Locked()

    def get(self, key: object, read: Callable[[], Any]) -> Any:
        """Return what `read` returns: the first of the threads that ask for it calls it, the others wait."""
        with self.turn.lock:
            mine = key not in self.groups
            future = self.groups.setdefault(key, Future())
            self.groups.move_to_end(key)
        if mine:
            try:
                future.set_result(read())
            except BaseException as error:
                with self.turn.lock:
                    self.groups.pop(key, None)
                future.set_exception(error)
            self.trim()
        return future.result()

    def trim(self) -> None:
        """Let go of the groups that were not asked for the longest."""
        with self.turn.lock:
            sizes = {key: f.result().nbytes for key, f in self.groups.items() if f.done() and not f.exception()}
            for key in list(sizes):
                if sum(sizes.values()) <= self.limit or len(sizes) <= _HELD:
                    return
                del self.groups[key], sizes[key]


@cache
def held() -> Held:
    """Return the row groups of this process."""
    return Held(_HELD_BYTES)


def read_group(file: str, column: str, group: int) -> Any:
    """Return the bytes of the images of a row group, an array of pyarrow's. Raises OSError where it is damaged."""
    parquet, types = arrow().parquet, arrow().types
    try:
        with parquet.ParquetFile(file) as content:
            values = content.read_row_group(group, columns=[column], use_threads=False).column(0)
        # Of a struct the only field that was asked for.
        return values.flatten()[0] if types.is_struct(values.type) else values
    except Exception as error:
        raise OSError(f"row group {group} cannot be read: {' '.join(str(error).split())}") from None


def of_parquet(place: Path, quiet: bool) -> Listing:
    """Return the images of a parquet file or of a folder of them. Raises DataError for what cannot be read.

    quiet: as for shards; there is no bar, since nothing but classes and names is read.
    """
    place = within(place)
    listing, names, parquet = Listing(), dict[tuple[str, ...] | None, Path](), arrow().parquet
    for path, part in parts_of(place, shards_of(place, PARQUET)).items():
        try:
            with parquet.ParquetFile(path) as file:
                columns = columns_of(path, file)
                check_groups(path, file)
                add_rows(path, file, columns, part, listing)
        except DataError:
            raise
        # Arrow raises many kinds for damaged files, in several lines.
        except Exception as error:
            text = (
                getattr(error, "strerror", None) or f"is damaged, or no parquet file ({' '.join(str(error).split())})"
            )
            raise DataError(f"{path}: {text}; fetch it again, or take it away") from None
        names.setdefault(columns.names, path)
    if len(names) > 1:
        first, second, *_ = names.values()
        raise DataError(f"{first} and {second} have other names of classes; give each data set a folder of its own")
    if not listing.found:
        raise DataError(f"{place}: holds no image with a class")
    return listing


def columns_of(path: Path, file: Any) -> Columns:
    """Return the columns of images and of classes by the rules above. Raises DataError where there are none, or two."""
    types, schema = arrow().types, file.schema_arrow
    features = features_of(path, schema.metadata or {})
    # The column with bytes of each column that can hold images.
    contents: dict[str, str] = {}
    for column in schema:
        inner = {column.type.field(i).name: i for i in range(column.type.num_fields)}
        if types.is_struct(column.type) and "bytes" in inner:
            contents[column.name] = f"{column.name}.bytes"
        elif types.is_binary(column.type) or types.is_large_binary(column.type):
            contents[column.name] = column.name
    labels = [column.name for column in schema if is_label(types, column.type)]
    image = chosen(path, "images, of bytes or of {bytes, path},", list(contents), "Image", _IMAGES, features)
    label = chosen(path, "classes, of texts or of whole numbers,", labels, "ClassLabel", _LABELS, features, only=False)
    has_path = types.is_struct(schema.field(image).type) and schema.field(image).type.get_field_index("path") >= 0
    names = features.get(label, {}).get("names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise DataError(f"{path}: the names of the classes of {label!r} are no list of texts; write the file again")
    return Columns(
        contents[image], f"{image}.path" if has_path else None, label, None if names is None else tuple(names)
    )


def is_label(types: ModuleType, kind: Any) -> bool:
    """True for a type of columns that classes can be in, or the absence of any."""
    kind = kind.value_type if types.is_dictionary(kind) else kind
    fits = types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_null
    return any(fit(kind) for fit in fits)


def features_of(path: Path, metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's metadata says of each column; nothing where there are none."""
    if b"huggingface" not in metadata:
        return {}
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: its `huggingface` metadata cannot be read ({error}); write the file again") from None


def chosen(
    path: Path,
    what: str,
    columns: list[str],
    feature: str,
    names: tuple[str, ...],
    features: dict[str, dict[str, Any]],
    only: bool = True,
) -> str:
    """Return the one of these columns that is meant: by its feature, its name, or, if `only`, as the only one.

    Raises DataError if that is none, or several.
    """
    said = [name for name in columns if features.get(name, {}).get("_type") == feature]
    for found in (said, [name for name in said or columns if name.lower() in names], columns if only else []):
        if len(found) == 1:
            return found[0]
    listed = f", but {', '.join(columns)}" if columns else ""
    raise DataError(
        f"{path}: has no one column of {what} that is called {' or '.join(names)}{listed}; rename the one that is meant"
    )


def check_groups(path: Path, file: Any) -> None:
    """Raise DataError if a row group is too large to be held in memory."""
    limit = _GROUP_SHARE * total_memory()
    for number in range(file.num_row_groups):
        # What the metadata say of a column is not asked for: where that is damaged, pyarrow ends the process.
        size = file.metadata.row_group(number).total_byte_size
        if size > limit:
            raise DataError(
                f"{path}: row group {number} holds {size:,} bytes, more than an eighth of the memory; write the file"
                " again with a row_group_size of 100"
            )


def add_rows(path: Path, file: Any, columns: Columns, part: str | None, listing: Listing) -> None:
    """Add the rows of a file to a listing. Raises DataError for a class that cannot be."""
    status = path.stat()
    labels = file.read(columns=[columns.label]).column(0).to_pylist()
    names: list[str | None] = [None] * len(labels)
    if columns.path is not None:
        names = file.read(columns=[columns.path]).column(0).combine_chunks().field(0).to_pylist()
    rows = [
        (group, row) for group in range(file.num_row_groups) for row in range(file.metadata.row_group(group).num_rows)
    ]
    for number, ((group, row), label, name) in enumerate(zip(rows, labels, names, strict=True)):
        place = Row.at(str(path), f"{number}/{name}" if name else str(number), columns.content, group, row)
        if label is None or label == _NO_CLASS:
            listing.problems.append(Problem(place, "no class", "no class"))
            continue
        if columns.names is not None and not 0 <= label < len(columns.names):
            raise DataError(f"{place}: is of class {label}, and the file has the names of {len(columns.names)}")
        text = class_name(str(label) if columns.names is None else columns.names[label], place)
        relative = f"{path.name}/{name or number}"
        listing.found.append(Found(place, text, part, relative, status.st_size, status.st_mtime_ns))
