"""Kernels in one file, which carries them from one machine to its twins.

File: 8 bytes magic; 4 bytes, little-endian, that give the length of a header; the header, JSON with what the kernels
are for and with their names and sizes; the object files one after another; 32 bytes HMAC-SHA256 of all before, by the
key of the user who wrote it.

What a file holds will run as the user who imports it. So nothing of it is looked at, but for the magic, before its
signature is found right; what it says it is for is compared only then. The key is 32 random bytes as hexadecimal
digits in a file of the user's configuration folder, made by the first export, which nobody else may read or write.
Whoever has the key can sign: it is carried to another machine as passwords are, and never beside the kernels.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llvmlite

from foveal.errors import DataError
from foveal.kernel import cache
from foveal.kernel.sources import imported_digest
from foveal.kernel.target import used
from foveal.system import place_of_file

MAGIC = b"fovealb1"
SIGNATURE_BYTES = 32
KEY_DIGITS = 64
# a file may hold as much as the cache, and its header
MAX_BYTES = cache.LIMIT_BYTES + (64 << 20)
READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH


def purpose() -> dict[str, str]:
    """What kernels have to be made for, to be of use to this process; by name, in the words of messages."""
    return {"version of Foveal": imported_digest(), "llvmlite": llvmlite.__version__, "CPU": used().identity}


def key_file() -> Path:
    """Where the user's key lies: $XDG_CONFIG_HOME/foveal/cache.key, or in ~/.config."""
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    place = cache.absolute(os.path.join(folder if os.path.isabs(folder) else "~/.config", "foveal", "cache.key"))
    if not place.is_absolute():
        raise DataError(f"there is no home folder that {place} could lie in; set XDG_CONFIG_HOME")
    return place


def make_key() -> bytes:
    """Return the user's key, which is made if there is none."""
    path = key_file()
    cache.make(path.parent)
    try:
        # in one step, and for this user alone
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(path)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(KEY_DIGITS // 2))
    return read_key(path)


def read_key(path: Path) -> bytes:
    """Read a key. Raises DataError unless it is one that is this user's alone."""
    try:
        handle = os.open(path, cache.OPEN_FLAGS)
    except FileNotFoundError:
        raise DataError(
            f"there is no key {path}; copy the one that the file was exported with, {key_file()} on that machine, to"
            " here or name it with --key"
        ) from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        alone = cache.user() is None or not status.st_mode & READABLE_BY_OTHERS
        if not (cache.is_own_file(status) and alone) or cache.exposure(Path(os.path.abspath(path)).parent):
            raise DataError(f"the key {path} has to be a file of yours that nobody else can read or write: chmod 600")
        text = file.read(KEY_DIGITS + 2).strip()
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(text) != KEY_DIGITS or len(key) != KEY_DIGITS // 2:
        raise DataError(f"{path} holds no key: {KEY_DIGITS} hexadecimal digits are expected")
    return key


def export(path: Path) -> tuple[int, int]:
    """Write the kernels of the cache that are of use to this version on this CPU; gives their number and their bytes.

    Raises DataError if there are none, or something else than a file lies at the path; OSError if it cannot be written.
    """
    place = place_of_file(path)
    objects = dict(cache.own_objects())
    if not objects:
        raise DataError(f"{cache.directory()} holds no kernels of this version of Foveal for this CPU")
    sizes = {name: len(body) for name, body in sorted(objects.items())}
    header = json.dumps({"for": purpose(), "kernels": sizes}).encode()
    content = b"".join([MAGIC, len(header).to_bytes(4, "little"), header, *(objects[name] for name in sizes)])
    signature = hmac.digest(make_key(), content, "sha256")
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content + signature)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)
    return len(sizes), sum(sizes.values())


def load(path: Path, key: Path | None = None) -> tuple[int, int]:
    """Put the kernels of a file into the cache; gives their number and their bytes.

    key: where the key lies that it was signed with, by default the user's own. Raises DataError if it is damaged or
    signed by another key, and if its kernels are for another CPU or version.
    """
    with path.open("rb") as file:
        content = file.read(len(MAGIC))
        # most of what it is not is known by its beginning
        if content == MAGIC:
            content += file.read(MAX_BYTES + 1 - len(MAGIC))
    if not content.startswith(MAGIC) or len(content) > MAX_BYTES:
        raise DataError(f"{path} was not written by `foveal cache export`")
    # nothing else in the file is looked at before it is known who wrote it
    key = key_file() if key is None else key
    signed, signature = memoryview(content)[:-SIGNATURE_BYTES], content[-SIGNATURE_BYTES:]
    if not hmac.compare_digest(hmac.digest(read_key(key), signed, "sha256"), signature):
        raise DataError(
            f"{path} is damaged, or was not signed with the key {key}: export it again, or name its key with --key"
        )
    made_for, sizes, start = read_header(path, signed)
    for what, ours in purpose().items():
        theirs = made_for.get(what)
        if theirs != ours:
            raise DataError(f"the kernels in {path} are for another {what}: {shown(theirs)}; here it is {shown(ours)}")
    objects = list(split(sizes, signed, start))
    kept = sum(cache.write(name, body) for name, body in objects)
    cache.stay_small()
    if kept < len(objects):
        raise DataError(f"{len(objects) - kept} of {len(objects)} kernels could not be written to {cache.directory()}")
    return kept, sum(len(body) for _, body in objects)


def read_header(path: Path, signed: memoryview) -> tuple[dict[str, str], dict[str, int], int]:
    """Return what the kernels are for, their sizes by name, and where the first one begins; the signature is right."""
    start = len(MAGIC) + 4
    end = start + int.from_bytes(signed[len(MAGIC) : start], "little")
    try:
        header: Any = json.loads(bytes(signed[start:end]))
        made_for, sizes = dict(header["for"]), dict(header["kernels"])
        named = all(cache.OWN_NAME.fullmatch(f"{name}.o") for name in sizes)
        sized = all(type(size) is int and 0 <= size <= cache.MAX_FILE_BYTES for size in sizes.values())
        whole = named and sized and end + sum(sizes.values()) == len(signed)
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise DataError(f"{path} is signed, but is not as `foveal cache export` writes it")
    return made_for, sizes, end


def split(sizes: dict[str, int], signed: memoryview, start: int) -> Iterator[tuple[str, bytes]]:
    """Yield the names and the object files."""
    for name, size in sizes.items():
        yield name, bytes(signed[start : start + size])
        start += size


def shown(value: object) -> str:
    """Return what kernels are for, short enough for a message."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:30]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
