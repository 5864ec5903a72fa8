"""Where decoded images are kept: in memory, in a file that is mapped into memory, or nowhere, so that they stream.

The choice follows from sizes alone and changes no bit of what is trained. A set that fits into the memory limit is
decoded into memory. Where decoding takes a second or more (`PAYS`), or the set does not fit, it is decoded into a file
of the cache folder, which the next run finds; the system reads its pages when they are used and lets go of them when
memory is short. Where no such file may be, or there is no room for one, images are decoded anew whenever they are read;
before that each is decoded once, so that damaged files are left out here too.

A file of the cache holds nothing but the bytes of the images. A JSON file beside it says how many there are and which
files are left out, and is written last, so that a file without it counts as absent. The name is a digest of the
preprocessing, of Pillow's version, and of the path, the size and the time of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from foveal.data.decoding.image_array import Bytes, ImageArray, Stamp, decoded_rows
from foveal.data.decoding.images import ImageError
from foveal.errors import ArgumentError, DataError
from foveal.files import temporary, write_whole
from foveal.system import free_memory, total_memory

#: The share of the machine's memory, and of what is free of it, that decoded images may take where no limit is given.
MEMORY_SHARE = 0.25
#: Pixels of files from which on a decoded file is kept, about a second of decoding; an image counts as so many more.
PAYS, PER_FILE = 1_000_000_000, 20_000
#: Bytes of all files in the cache, and the share of the free disk that a new one may take.
CACHE_BYTES, DISK_SHARE = 50 << 30, 0.5
MEMORY, CACHE, STREAM = "memory", "cache", "stream"
_VERSION = 1
# Names in the folder of decoded images, those of files that are being written among them.
_OWN_NAME = re.compile(r"[0-9a-f]{40}\.(pixels|json)|\.[0-9a-f]{40}\.(pixels|json)\.\d+\.tmp")


@dataclass(frozen=True)
class Storage:
    """Where the decoded images of a data set are kept."""

    #: "memory", "cache" or "stream"
    kind: str
    #: of all images, decoded
    bytes: int
    #: one line that says so
    text: str
    #: of the cache; None where there is none
    folder: Path | None = None


def choose(bytes: int, work: int, memory_limit: float | None, data_cache: str | Path, images: int = 0) -> Storage:
    """Return where images of so many bytes are kept. work: pixels of their files; an image counts PER_FILE more.

    memory_limit: in bytes; MEMORY_SHARE if None. data_cache: "auto", "off", or a folder. Raises ArgumentError for a
    limit below 0.
    """
    if memory_limit is not None and not memory_limit >= 0:
        raise ArgumentError(f"memory_limit is {memory_limit}; give bytes, 0 or more")
    limit = default_limit() if memory_limit is None else float(memory_limit)
    folder = cache_folder(data_cache)
    room = 0.0 if folder is None else room_for(folder)
    fits, pays = bytes <= limit, work + images * PER_FILE >= PAYS
    size, allowed = in_words(bytes), f"the memory limit is {in_words(limit)}"
    if folder is not None and bytes <= room and (pays or not fits):
        return Storage(CACHE, bytes, f"{size} decoded, in a file mapped into memory in {folder}; {allowed}", folder)
    if fits:
        return Storage(MEMORY, bytes, f"{size} decoded, in memory; {allowed}")
    why = "no cache on disk is wanted" if folder is None else f"{folder} has room for {in_words(room)}"
    return Storage(STREAM, bytes, f"decoded anew in each epoch, as {size} do not fit: {allowed}, and {why}")


def default_limit() -> float:
    """Return how many bytes decoded images may take: MEMORY_SHARE of the memory."""
    limit = MEMORY_SHARE * total_memory()
    return limit if np.isfinite(limit) else MEMORY_SHARE * free_memory()


def cache_folder(data_cache: str | Path) -> Path | None:
    """Return the folder of decoded images; None where there is to be none. Raises DataError where it cannot be made."""
    if data_cache == "off":
        return None
    if data_cache != "auto":
        folder = Path(data_cache).expanduser()
    else:
        place = usual_folder()
        if place is None:
            return None
        folder = place
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if data_cache == "auto":
            return None
        raise DataError(
            f"data cache {folder}: cannot be made: {error.strerror or error}; give another folder"
        ) from None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def usual_folder() -> Path | None:
    """Return the folder of decoded images where none is given; None where nothing may be kept on disk."""
    from foveal.kernel import cache

    # Nobody else may write there.
    place = cache.usable()
    return None if place is None else place / "images"


def kept_files(folder: Path) -> list[Path]:
    """Return the files of a folder of decoded images that are such; what else lies there is not among them."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if _OWN_NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink()]


def room_for(folder: Path) -> float:
    """Return how many bytes a new file in the cache may have."""
    return min(CACHE_BYTES, DISK_SHARE * shutil.disk_usage(folder).free)


def in_words(count: float) -> str:
    """Return a number of bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if np.isfinite(count) else "unlimited"
    return f"{count:.0f} bytes"


def stored(
    array: ImageArray, storage: Storage, refused: Callable[[int, ImageError], None], advance: Callable[[int], None]
) -> tuple[Bytes | ImageArray, Sequence[int]]:
    """Return the images of an array where they are kept, and the rows that these are.

    refused: called with each row that cannot be decoded, which is left out.
    advance: called with how many more images are done.
    """
    if storage.kind == STREAM:
        whole = [row for row, _ in without_refused(array, refused, advance)]
        return array.of_rows(whole), whole
    if not len(array):
        return array, []
    if storage.kind == CACHE and storage.folder is not None:
        found = from_cache(storage.folder / digest(array), array, refused)
        if found is None:
            found = into_cache(storage.folder / digest(array), array, refused, advance)
        else:
            advance(len(array))
        if found is not None:
            return found
    kept: list[int] = []
    result = np.empty(array.shape, np.uint8)
    for row, image in without_refused(array, refused, advance):
        result[len(kept)] = image
        kept.append(row)
    return result[: len(kept)], kept


def without_refused(
    array: ImageArray, refused: Callable[[int, ImageError], None], advance: Callable[[int], None]
) -> Iterator[tuple[int, Bytes]]:
    """Yield the rows that can be decoded, each with its image."""
    for row, image in enumerate(decoded_rows(array, range(len(array)))):
        if isinstance(image, ImageError):
            refused(row, image)
        else:
            yield row, image
        advance(1)


def digest(array: ImageArray) -> str:
    """Return the name of what an array is decoded into: it follows from the files and how they are read."""
    import PIL

    known = asdict(array.preprocessing)
    for name in ("mean", "std", "value_range"):
        del known[name]
    found = hashlib.sha256(json.dumps([_VERSION, PIL.__version__, known]).encode())
    stamps: Sequence[Stamp] = array.stamps or [(0, 0)] * len(array)
    for path, stamp in zip(array.paths, stamps, strict=True):
        found.update(f"{os.path.abspath(path)}\0{stamp[0]}\0{stamp[1]}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:40]


def from_cache(
    place: Path, array: ImageArray, refused: Callable[[int, ImageError], None]
) -> tuple[Bytes, Sequence[int]] | None:
    """Return what the cache holds under a name; None if that is nothing, or damaged."""
    pixels, about = place.with_suffix(".pixels"), place.with_suffix(".json")
    try:
        known = json.loads(about.read_text(encoding="utf-8"))
        left_out = {int(row): (str(kind), str(text)) for row, kind, text in known["left out"]}
        kept = [row for row in range(len(array)) if row not in left_out]
        shape = (len(kept), *array.shape[1:])
        if pixels.stat().st_size != int(np.prod(shape, dtype=np.int64)) or not kept:
            return None
        mapped: Bytes = np.memmap(pixels, np.uint8, "r", shape=shape)
        # The files used least recently go first.
        os.utime(pixels)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for row, (kind, text) in left_out.items():
        refused(row, ImageError(array.paths[row], kind, text))
    return mapped, kept


def into_cache(
    place: Path, array: ImageArray, refused: Callable[[int, ImageError], None], advance: Callable[[int], None]
) -> tuple[Bytes, Sequence[int]] | None:
    """Decode an array into a file of the cache and return it; None if it holds no image. Raises DataError."""
    pixels, about = place.with_suffix(".pixels"), place.with_suffix(".json")
    trim(place.parent, array.size)
    left_out: list[tuple[int, str, str]] = []

    def note(row: int, error: ImageError) -> None:
        left_out.append((row, error.kind, error.text))
        refused(row, error)

    draft = temporary(pixels)
    try:
        # Written and not mapped: a full disk is an error then, and not the end of the process.
        with draft.open("wb") as file:
            for _, image in without_refused(array, note, advance):
                file.write(image.data)
        draft.replace(pixels)
        write_whole(about, json.dumps({"left out": left_out}).encode())
    except OSError as error:
        raise DataError(
            f"{pixels}: cannot be written: {error.strerror or error}; give another folder for the data cache, or turn"
            " it off"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    again = from_cache(place, array, lambda row, error: None)
    return again


def trim(folder: Path, coming: int) -> None:
    """Remove the files used least recently until there is room for so many bytes below CACHE_BYTES."""
    with suppress(OSError):
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.pixels"))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total + coming <= CACHE_BYTES:
                return
            # What another process has mapped stays readable for it.
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            total -= size
