"""Tar shards of images, as WebDataset names what is in them: `.tar` files, or folders of them.

The rules:

- Members whose names are the same up to the first dot of the file's name are one sample, in whatever order they lie:
  `000/17.jpg` and `000/17.cls`. Of a sample one member is the image, by its extension.
- Its class is what `.cls` says, a number or a name, or `.json` under label, class, category, target or cls, or `.txt`,
  one line. All samples have the same of these. `classnames.txt` beside the shards, a name a line, names the numbers.
- A shard is of the part that its name has as a word, such as `train-000000.tar`, if one shard is for training; or
  shards lie in folders of that name. Otherwise the parts are drawn, as they are of folders.

Nothing is unpacked: images are read where they lie in the shard, so compressed shards are refused. Links, devices and
sparse members are left out, names lead nowhere, and what is read of a member into memory is bounded.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from foveal.data.decoding.members import SEPARATOR, TarMember
from foveal.data.files import is_packed, read_limited
from foveal.data.scanning import tables
from foveal.data.scanning.listing import PART_NAMES, TRAIN, Found, Listing, Problem, class_name, looks_like_image
from foveal.data.threads import Bar
from foveal.errors import DataError

#: Extensions of shards that are read, and of compressed ones.
TAR = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
# Where the class of a sample may stand, by extension.
LABELS = ("cls", "json", "txt")
#: Names of classes in the order of their numbers.
NAMES = "classnames.txt"
_KEYS = ("cls", *tables.COLUMNS["label"])
# Bytes of an image in a shard, of a member that holds a class, of a line that is one, and of a header of tar.
LARGEST, _LABEL_BYTES, _LINE, _HEADER_BYTES = 1 << 28, 1 << 20, 200, 1 << 22
_BLOCK = 512


def holds_shards(place: Path) -> bool:
    """Return True for a tar shard, and for a folder of them."""
    return bool(shards_of(place, TAR, *PACKED))


def shards_of(place: Path, *endings: str) -> list[Path]:
    """Return the files with these endings: the one that is given, or those of a folder, in the order of their names.

    They lie in the folder itself, or in folders in it that are named as parts; a folder with others is none of shards.
    """
    if not place.is_dir():
        return [place] if place.name.lower().endswith(endings) and place.is_file() else []
    try:
        with os.scandir(place) as inside:
            entries = [entry for entry in inside if not entry.name.startswith(".")]
        folders = [place / entry.name for entry in entries if entry.is_dir()]
        if any(folder.name.lower() not in PART_NAMES for folder in folders):
            return []
        files = [place / entry.name for entry in entries] + [path for folder in folders for path in folder.iterdir()]
    except OSError:
        # Whoever reads it as a folder of images says so.
        return []
    wanted = (path for path in files if path.name.lower().endswith(endings) and not path.name.startswith("."))
    return sorted(path for path in wanted if path.is_file())


def parts_of(place: Path, shards: Iterable[Path]) -> dict[Path, str | None]:
    """Return the part of each shard, by the words of its name and by its folder; None for all if none is for training.

    Raises DataError for a shard that is of two parts, and for one that is of none where others are of some.
    """
    found: dict[Path, str | None] = {}
    for path in shards:
        words = re.split(r"[^a-z]+", path.name.lower().partition(".")[0])
        words += [] if path.parent == place or path == place else [path.parent.name.lower()]
        parts = sorted({PART_NAMES[word] for word in words if word in PART_NAMES})
        if len(parts) > 1:
            raise DataError(f"{path}: is by its name of the parts {' and '.join(parts)}; rename it")
        found[path] = parts[0] if parts else None
    if TRAIN not in found.values():
        return dict.fromkeys(found)
    for path, part in found.items():
        if part is None:
            raise DataError(
                f"{path}: lies beside shards of parts, and its name says none; rename it to train, validation or test"
                " and a number, or move it away"
            )
    return found


@dataclass
class Sample:
    """The members of a shard that have one name up to its first dot."""

    image: TarMember | None = None
    #: by where it stands: the extension
    labels: dict[str, str] = field(default_factory=dict)


def of_shards(place: Path, quiet: bool) -> Listing:
    """Return the images of a shard or of a folder of shards. quiet: True for no bar.

    Raises DataError for what is no whole tar file, and for classes that cannot be read.
    """
    for path in shards_of(place, *PACKED):
        raise packed(path)
    listing, kinds = Listing(), dict[str, str]()
    parts = parts_of(place, shards_of(place, TAR))
    with Bar("listing the images of", len(parts), "shards", quiet) as bar:
        for path, part in parts.items():
            try:
                found = samples(path, listing)
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror or error}; make it readable") from None
            # The first image of each way to say a class, to name two that differ.
            for kind, image in add_samples(found, path, part, place, listing):
                kinds.setdefault(kind, image)
            bar.advance()
    if len(kinds) > 1:
        (one, first), (other, second), *_ = kinds.items()
        raise DataError(f"{place}: {first} has its class in .{one} and {second} in .{other}; give all the same")
    if not listing.found:
        raise DataError(
            f"{place}: holds no image with a class; each image of a shard needs a member of its name beside it, as"
            " 17.cls beside 17.jpg. Of an archive of folders unpack it, and give the folder"
        )
    return named(place, listing) if "cls" in kinds else listing


def add_samples(
    found: dict[str, Sample], path: Path, part: str | None, place: Path, listing: Listing
) -> Iterator[tuple[str, TarMember]]:
    """Add the samples of a shard to a listing, and yield where each has its class, and its image."""
    status, base = path.stat(), place if place.is_dir() else place.parent
    for name, sample in found.items():
        kind = next((kind for kind in LABELS if kind in sample.labels), None)
        if sample.image is None:
            listing.problems.append(Problem(f"{path}{SEPARATOR}{name}", "no image", "a sample without an image"))
        elif kind is None:
            text = "no class: there is no .cls, .json with a label, or .txt of one line with its name"
            listing.problems.append(Problem(sample.image, "no class", text))
        else:
            label = class_name(sample.labels[kind], sample.image)
            relative = f"{path.relative_to(base).as_posix()}/{sample.image.name}"
            listing.found.append(Found(sample.image, label, part, relative, status.st_size, status.st_mtime_ns))
            yield kind, sample.image


def packed(path: Path) -> DataError:
    """Return the error that a shard is compressed."""
    return DataError(
        f"{path}: a compressed shard, which cannot be read at any place; unpack it to a .tar file (gunzip, bunzip2,"
        " unxz or unzstd), which is hardly larger, as images are compressed themselves"
    )


def samples(path: Path, listing: Listing) -> dict[str, Sample]:
    """Return the samples of a shard in their order; what is left out goes to the problems."""
    found: dict[str, Sample] = {}
    with path.open("rb") as content:
        for member in members(path):
            problem = refused(member)
            folder, _, name = member.name.rpartition("/")
            stem, _, extensions = name.partition(".")
            if problem is None and not stem:
                problem = "hidden", "hidden, or left by the system"
            if problem is not None:
                listing.problems.append(Problem(f"{path}{SEPARATOR}{member.name}", *problem))
            elif member.isreg():
                sample = found.setdefault(f"{folder}/{stem}" if folder else stem, Sample())
                place = TarMember.at(str(path), member.name, member.offset_data, member.size)
                add(sample, place, extensions.lower().rpartition(".")[2], content)
    return found


def refused(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Return the kind of problem that a member is, and a text; None for a file that is read, and for a folder."""
    if member.issym() or member.islnk():
        return "link", f"a link to {member.linkname}, which is not followed"
    if member.issparse() or not (member.isreg() or member.isdir()):
        return "hostile", "neither a file nor a folder"
    if member.size > LARGEST and looks_like_image(member.name):
        return "hostile", f"holds {member.size:,} bytes, and at most {LARGEST:,} are read of an image"
    return None


def add(sample: Sample, member: TarMember, extension: str, content: io.BufferedReader) -> None:
    """Add a member to its sample. Raises DataError for a second image, or a class that cannot be read."""
    if looks_like_image(member):
        if sample.image is not None:
            raise DataError(f"{sample.image} and {member} are images of one sample; take one away, or rename it")
        sample.image = member
    elif extension in LABELS:
        if member.length > _LABEL_BYTES:
            raise DataError(f"{member}: {member.length:,} bytes are too many for a class; {_LABEL_BYTES:,} are read")
        content.seek(member.offset)
        label = label_in(member, extension, content.read(member.length))
        if label is None:
            return
        if sample.labels.setdefault(extension, label) != label:
            raise DataError(f"{member}: is in the shard twice, as {sample.labels[extension]!r} and as {label!r}")


def label_in(member: str, extension: str, content: bytes) -> str | None:
    """Return the class that a member holds; None for a .json without one and for a .txt of more than a line."""
    try:
        text = content.decode("utf-8-sig").strip()
        if extension != "json":
            if text and len(text) <= _LINE and len(text.splitlines()) == 1:
                return text
            if extension == "txt":
                return None
            raise DataError(
                f"{member}: is to hold the class, a number or a name, and holds {text[:40]!r}; write it anew"
            )
        entry = json.loads(text)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{member}: cannot be read ({error}); write it anew, in UTF-8") from None
    # The file of a number, too.
    values = [entry[key] for key in _KEYS if key in entry] if isinstance(entry, dict) else [entry]
    plain = [value for value in values if isinstance(value, str | int) and not isinstance(value, bool)]
    return str(plain[0]) if plain else None


def named(place: Path, listing: Listing) -> Listing:
    """Return a listing with the names of its classes for their numbers, if a file beside the shards has them."""
    path = (place if place.is_dir() else place.parent) / NAMES
    if not path.is_file():
        return listing
    try:
        names = read_limited(path, _LABEL_BYTES, "names of classes").decode("utf-8-sig").strip().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 (byte {error.start}); save it as UTF-8") from None
    if len(set(names)) != len(names):
        raise DataError(f"{path}: two classes have one name; give each a name of its own")
    found: list[Found] = []
    for file in listing.found:
        if not file.label.isdecimal() or int(file.label) >= len(names):
            raise DataError(f"{file.path}: is of the class {file.label}, and {path} has the names of {len(names)}")
        label = class_name(names[int(file.label)].strip(), str(path))
        found.append(Found(file.path, label, file.part, file.relative, file.bytes, file.changed))
    return Listing(found, listing.problems)


class Headers(io.FileIO):
    """A tar file, of which headers are read, and never much of it at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise DataError(f"{self.name}: a header says that it has {size} bytes; it is damaged or hostile")
        return super().read(size) or b""


def members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file, which are whole. Raises DataError for what is none, and where it is torn."""
    size, end = path.stat().st_size, 0
    with Headers(path) as content:
        try:
            with tarfile.open(fileobj=content, mode="r:", errors="surrogateescape") as tar:
                while (member := tar.next()) is not None:
                    # Neither may a header lead back, nor what is known of a million members stay in memory.
                    tar.members.clear()  # type: ignore[attr-defined]
                    if member.size < 0 or tar.offset <= end:
                        raise DataError(f"{path}: the header of {member.name} leads back; it is damaged or hostile")
                    end = tar.offset
                    if member.isreg() and not member.issparse() and member.offset_data + member.size > size:
                        raise torn(path, size)
                    yield member
                end = tar.offset
        except DataError:
            raise
        except (tarfile.TarError, RecursionError, ValueError, OverflowError) as error:
            if path.stat().st_size and is_packed(path):
                raise packed(path) from None
            if end:
                raise torn(path, end) from None
            raise DataError(f"{path}: is no tar file ({error}); fetch it again, or take it away") from None
        # A header that cannot be read ends a tar file silently, as does the end of a torn one: zeros have to.
        content.seek(end)
        if content.read(_BLOCK) != bytes(_BLOCK):
            raise torn(path, end)
        while rest := content.read(_HEADER_BYTES):
            if rest.strip(b"\0"):
                raise DataError(f"{path}: goes on behind its end, as two tar files in one do; write them into one anew")


def torn(path: Path, place: int) -> DataError:
    """Return the error that a tar file is damaged at a place."""
    return DataError(f"{path}: is torn or damaged at byte {place:,}; fetch it again, or take it away")
