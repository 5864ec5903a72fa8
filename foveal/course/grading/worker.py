"""The process in which functions of a submission run: it is sent calls, and sends back what they return.

It is started as a program of its own, and imports NumPy and the standard library alone, so that nothing of Foveal is
there to be called or changed. What is right is neither known nor decided here: the other side compares.

A message is the number of its bytes (8, big-endian), the number of those that are JSON (8), JSON, and the bytes of
arrays one after the other. In JSON, an array is {"array": [dtype, shape]}, a tuple {"tuple": [...]}, and what else
there is no form for is {"other": its type}.
"""

from __future__ import annotations

import importlib
import io
import json
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import FrameType
from typing import Any, BinaryIO

import numpy as np

# What a message may have at most, and a text in it.
MOST_BYTES, MOST_LETTERS = 1 << 28, 4000
# Values of an array that can be sent: truth values, whole numbers, floats, as the machine holds them.
KINDS = frozenset(np.dtype(kind).str for kind in "?bhilqBHILQefd")
# Nested more deeply than this, a value is no result.
DEPTH = 8


class Broken(Exception):
    """What came is no message."""


def packed(value: object) -> bytes:
    """Return a value as a message."""
    arrays: list[bytes] = []
    text = json.dumps(plain(value, arrays, DEPTH)).encode()
    body = b"".join([len(text).to_bytes(8, "big"), text, *arrays])
    return len(body).to_bytes(8, "big") + body


def plain(value: object, arrays: list[bytes], depth: int) -> Any:
    """Return a value as JSON holds it, and put the bytes of its arrays into a list."""
    if depth and type(value) is tuple:
        return {"tuple": [plain(part, arrays, depth - 1) for part in value]}
    if depth and type(value) is list:
        return [plain(part, arrays, depth - 1) for part in value]
    if depth and type(value) is dict:
        return {"dict": [[str(key), plain(part, arrays, depth - 1)] for key, part in value.items()]}
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int and abs(value) < 1 << 63:
        return value
    if isinstance(value, float) and not isinstance(value, np.generic):
        # JSON has no NaN and no infinity.
        return {"float": float(value).hex()}
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.str in KINDS and array.nbytes < MOST_BYTES:
            arrays.append(np.ascontiguousarray(array).tobytes())
            return {"array": [array.dtype.str, list(array.shape)]}
        return {"other": f"array of {array.dtype}"}
    return {"other": type(value).__name__}


class Other:
    """A result that is no number, text, array, or tuple of those: of which type it was."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"a value of the type {self.kind}"


def unpacked(body: bytes) -> Any:
    """Return the value of a message, whose first 8 bytes were taken off. Raises Broken for what is none."""
    try:
        end = 8 + int.from_bytes(body[:8], "big")
        stream = io.BytesIO(body[end:])
        value = value_of(json.loads(body[8:end]), stream, DEPTH + 1)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, MemoryError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from error
    if stream.read(1):
        raise Broken("bytes are left over")
    return value


def value_of(held: Any, stream: io.BytesIO, depth: int) -> Any:
    """Return the value that JSON and the bytes of arrays say. Raises ValueError for what `plain` does not write."""
    if not depth:
        raise ValueError("it is nested too deeply")
    if isinstance(held, list):
        return [value_of(part, stream, depth - 1) for part in held]
    if not isinstance(held, dict):
        if held is not None and type(held) not in (bool, str) and not (type(held) is int and abs(held) < 1 << 63):
            raise ValueError(f"a number that is sent otherwise: {type(held).__name__}")
        return held
    ((form, content),) = held.items()
    if form == "tuple":
        return tuple(value_of(part, stream, depth - 1) for part in content)
    if form == "dict":
        return {str(key): value_of(part, stream, depth - 1) for key, part in content}
    if form == "float":
        return float.fromhex(content)
    if form == "array":
        kind, shape = content
        if kind not in KINDS or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"an array of {kind} and {shape}")
        dtype, size = np.dtype(kind), 1
        for n in shape:
            size *= n
        if size * dtype.itemsize > MOST_BYTES:
            raise ValueError(f"an array of {shape}")
        # A copy, which may be written to.
        return np.frombuffer(stream.read(size * dtype.itemsize), dtype).reshape(shape).copy()
    return Other(str(content)[:100])


def read_exactly(stream: BinaryIO, count: int) -> bytes:
    """Return that many bytes. Raises EOFError where there are fewer."""
    parts = []
    while count:
        part = stream.read(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def received(stream: BinaryIO) -> Any:
    """Return the value of the next message. Raises EOFError at the end, Broken for what is no message."""
    count = int.from_bytes(read_exactly(stream, 8), "big")
    if not 8 <= count <= MOST_BYTES:
        raise Broken(f"a message of {count} bytes")
    return unpacked(read_exactly(stream, count))


class Allowed:
    """Refuses modules to the submission but those of the standard library, NumPy, and others by name."""

    def __init__(self, folder: str, names: Sequence[str]) -> None:
        self.folder, self.names = folder, {"numpy", *names, *sys.stdlib_module_names}
        self.library = os.path.dirname(os.__file__) + os.sep

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for a module that may not be used; else leave it to the usual finders."""
        top = name.partition(".")[0]
        own = os.path.join(self.folder, top)
        if top in self.names or os.path.isfile(own + ".py") or os.path.isdir(own):
            return None
        # What may be used may itself use anything: the file that imports counts, or that lets the library import.
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and self.of_library(frame.f_code.co_filename):
            frame = frame.f_back
        # Code that was made of a text, by exec, has no file, and is the submission's.
        file = "" if frame is None else frame.f_code.co_filename
        if os.path.isabs(file) and not file.startswith(self.folder + os.sep):
            return None
        raise ModuleNotFoundError(
            f"{top} may not be imported: files of this folder, NumPy and the standard library may", name=name
        )

    def of_library(self, file: str) -> bool:
        """Return whether a file is the standard library's, which holds the folder of packages on some systems."""
        inside = file.startswith(self.library) and not file[len(self.library) :].startswith(("site-", "dist-"))
        return inside or file.startswith("<frozen ")


def told(error: BaseException, folder: str) -> dict[str, Any]:
    """Return an error as a message: its type, its text, and the lines of the submission that led to it."""
    kind = type(error)
    blank = isinstance(error, NotImplementedError)
    try:
        text = str(error)
    except Exception:
        text = ""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(folder):
            # From the file itself: a submission that has changed its folder has no relative paths any more.
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            lines.append(f"{os.path.relpath(frame.filename, folder)}, line {frame.lineno}: {line}")
    if isinstance(error, SyntaxError) and error.filename:
        lines.append(f"{os.path.basename(error.filename)}, line {error.lineno}: {(error.text or '').strip()}")
    where = [line[:300] for line in lines[-5:]]
    return {"raised": kind.__name__, "text": text[:MOST_LETTERS], "where": where, "blank": blank}


def answered(function: Callable[..., Any], arguments: Sequence[Any]) -> dict[str, Any]:
    """Return what a function returns, as a message, or the names of arrays among its arguments that it has changed."""
    before = [one.copy() if isinstance(one, np.ndarray) else None for one in arguments]
    returned = function(*arguments)
    code = getattr(function, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code else ()
    changed = [
        names[i] if i < len(names) else f"number {i + 1}"
        for i, (one, was) in enumerate(zip(arguments, before, strict=True))
        # Bit for bit, as NaN is not equal to itself.
        if was is not None and (one.shape != was.shape or one.tobytes() != was.tobytes())
    ]
    return {"changed": changed} if changed else {"returned": returned}


def main(folder: str, calls: int, answers: int, allowed: Sequence[str]) -> None:
    """Answer calls, which come and go through these two file descriptors, until there are no more."""
    sys.path.insert(0, folder)
    sys.meta_path.insert(0, Allowed(folder, allowed))  # type: ignore[arg-type, unused-ignore]
    modules: dict[str, Any] = {}
    with os.fdopen(calls, "rb") as incoming, os.fdopen(answers, "wb") as outgoing:
        while True:
            try:
                call = received(incoming)
            except EOFError:
                return
            # Whatever is raised is the submission's, SystemExit and KeyboardInterrupt too.
            try:
                name = call["module"]
                if name not in modules:
                    modules[name] = importlib.import_module(name)
                function = getattr(modules[name], call["function"], None)
                answer = {"missing": call["function"]}
                if callable(function):
                    answer = answered(function, call["arguments"])
                message = packed(answer)
            except BaseException as error:
                message = packed(told(error, folder))
            outgoing.write(message)
            outgoing.flush()
            # What a function has changed of its arguments, and what it returned, is let go of before the next call.
            del call, message


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
