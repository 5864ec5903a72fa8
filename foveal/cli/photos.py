"""The photos that the words of a command line name: files, folders, patterns, standard input, lists of paths."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import click

from foveal.cli.options import echo
from foveal.errors import DataError

#: Stands for standard input.
STDIN = "-"
# Bytes of an image on standard input, at most, and of a list of paths that are read at a time.
_MOST, _BLOCK = 1 << 30, 1 << 16


class Photos:
    """The photos that words name, one after the other; what cannot be found is told on standard error, and counted.

    A word is the path of a file; of a folder, whose images are taken in the order of their names, those of the folders
    in it too; a pattern such as 'photos/*.jpg' or 'photos/**/cat*'; or - for an image on standard input. A file that is
    there is never taken for a pattern. listed: a file with a path on each line, or between zero bytes, as
    `find -print0` writes them; - for standard input.
    """

    def __init__(self, words: Sequence[str], listed: str | None = None) -> None:
        self.words, self.listed = words, listed
        #: Words that name nothing, and files in folders that are no images, or hidden.
        self.failed = self.left_out = 0
        if [*words, listed].count(STDIN) > 1:
            raise click.UsageError("Standard input, -, can be read once.")
        if not words and listed is None:
            raise click.UsageError("Missing argument 'IMAGE...'; or give --paths-from FILE.")

    def __iter__(self) -> Iterator[str | bytes]:
        for word in self.words:
            if word == STDIN:
                yield from self.from_standard_input()
            elif glob.has_magic(word) and not os.path.lexists(word):
                yield from self.matching(word)
            else:
                yield from self.below(word)
        if self.listed is not None:
            for path in paths_in(self.listed):
                yield from self.below(path)

    def fail(self, message: str) -> None:
        """Say on standard error what cannot be answered, and count it."""
        self.failed += 1
        echo(f"Error: {message}", err=True)

    def from_standard_input(self) -> Iterator[bytes]:
        """Yield the image on standard input."""
        content = standard_input().read(_MOST + 1)
        if len(content) > _MOST:
            self.fail(f"standard input holds more than {_MOST:,} bytes, which is no image")
        elif not content:
            self.fail("standard input is empty; pipe an image into it: foveal predict RUN - < photo.jpg")
        else:
            yield content

    def matching(self, pattern: str) -> Iterator[str]:
        """Yield the files that match a pattern, and those in folders that do, in the order of their names."""
        # Hidden files are left out, as shells do it.
        found = sorted(glob.iglob(pattern, recursive=True))
        if not found:
            # Which does not exist; it may have been meant as a name.
            yield pattern
        # With ** a folder is found beside the files in it.
        folders = "**" not in pattern
        for path in found:
            if folders or not os.path.isdir(path):
                yield from self.below(path)

    def below(self, path: str) -> Iterator[str]:
        """Yield a path; of a folder those of the images in it, and in its folders."""
        if not os.path.isdir(path):
            yield path
            return
        from foveal.data.scanning.listing import Listing, looks_like_image, walk

        listing, count = Listing(), 0
        try:
            for entry in walk(path, listing, (os.path.realpath(path),)):
                if looks_like_image(entry.name):
                    count += 1
                    yield entry.path
                else:
                    self.left_out += 1
        except DataError as error:
            self.fail(str(error))
        else:
            if not count:
                self.fail(f"{path}: holds no images")
        self.left_out += len(listing.problems)


def standard_input() -> IO[bytes]:
    """Return standard input as bytes. Raises DataError if it is closed."""
    if sys.stdin is None:
        raise DataError("standard input is closed; give the paths of images")
    return sys.stdin.buffer


def paths_in(listed: str) -> Iterator[str]:
    """Yield the paths in a list. Raises DataError if it cannot be read."""
    try:
        if listed == STDIN:
            yield from separated(standard_input())
        else:
            with open(listed, "rb") as file:
                yield from separated(file)
    except OSError as error:
        raise DataError(f"--paths-from {listed}: cannot be read: {error.strerror or error}") from None


def separated(stream: IO[bytes]) -> Iterator[str]:
    """Yield the paths in a stream: between zero bytes if its first block holds one, else one on each line."""
    rest = stream.read(_BLOCK)
    end = b"\0" if b"\0" in rest else b"\n"
    for block in chunks(stream):
        *whole, rest = (rest + block).split(end)
        yield from decoded(whole)
    yield from decoded(rest.split(end))


def chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what is left of a stream, block by block."""
    while block := stream.read(_BLOCK):
        yield block


def decoded(paths: Iterable[bytes]) -> Iterator[str]:
    """Yield paths as text, without the ends of Windows' lines and without empty ones."""
    for path in paths:
        if path := path.removesuffix(b"\r"):
            yield os.fsdecode(path)
