"""Options of commands on image files, and reading DATA with them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from foveal.cli.options import echo, with_options

if TYPE_CHECKING:
    from foveal.data.dataset import Dataset
    from foveal.data.decoding.preprocessing import Preprocessing
    from foveal.data.scanning.image_files import ImageFiles

Command = TypeVar("Command", bound=Callable[..., Any])
# Files that are left out and named one by one.
_NAMED = 10
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Shares(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """One or two shares of all images, such as 0.2 or 0.1,0.2."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            shares = tuple(float(text) for text in value.split(","))
        except ValueError:
            shares = ()
        if len(shares) not in (1, 2):
            self.fail(f"{value!r}: give the share for testing, 0.2, or those for validation and testing, 0.1,0.2")
        return shares if len(shares) == 2 else shares[0]


class Side(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Rows and columns of an image, such as 96 or 96x128."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        found = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", value.strip())
        if found is None or int(found[1]) < 1 or int(found[2] or 1) < 1:
            self.fail(f"{value!r}: give pixels, 96, or rows and columns, 96x128")
        return int(found[1]), int(found[2] or found[1])


class Bytes(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A number of bytes, such as 500MB or 2GB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]?)i?B?", value.strip(), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r}: give bytes with a unit, such as 500MB or 2GB")
        return float(found[1]) * _UNITS[found[2].upper()]


class Colour(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A colour by name, or as #rrggbb."""

    name = "colour"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from PIL import ImageColor

        if not isinstance(value, str):
            return value
        try:
            return ImageColor.getrgb(value)[:3]
        except ValueError:
            self.fail(f"{value!r}: give the name of a colour, such as white, or #rrggbb")


_OPTIONS = (
    click.option(
        "--group-by",
        metavar="PATTERN",
        help="Image files: those in whose names the regular expression's brackets match the same, such as the photos of"
        " one person, '^(.*?)_', never stand in two parts.",
    ),
    click.option(
        "--split",
        type=Shares(),
        help="Image files: the shares for validation and testing, 0.1,0.2, or for testing alone, where there are no"
        " such parts. What is drawn is the same for every --seed.  [default: 0.1,0.2]",
    ),
    click.option(
        "--background", type=Colour(), help="Image files: the colour under what is transparent.  [default: white]"
    ),
    click.option("--strict", is_flag=True, help="Image files: stop at a damaged one, which is left out otherwise."),
    click.option(
        "--memory-limit",
        type=Bytes(),
        help="Image files: what decoded images may take in memory, such as 2GB.  [default: a quarter of the memory]",
    ),
    click.option(
        "--data-cache",
        metavar="auto|off|FOLDER",
        default="auto",
        show_default=True,
        help="Image files: where decoded images are kept, if they do not fit into memory or took a second to decode.",
    ),
)
_SIZE = click.option(
    "--image-size", type=Side(), help="Image files: the size that they are resized to, 96 or 96x128.  [default: chosen]"
)
# The names that the command gets as one argument, `images`.
_NAMES = ("group_by", "split", "background", "strict", "memory_limit", "data_cache", "image_size")


def folder_options(command: Command) -> Command:
    """Give a command all options of image files, which it gets as the dict `images`."""
    return _with(command, (*_OPTIONS, _SIZE))


def folder_options_of_run(command: Command) -> Command:
    """Give a command on a trained network the options of image files: their size is that of the network."""
    return _with(command, _OPTIONS)


def _with(command: Command, options: tuple[Callable[[Any], Any], ...]) -> Command:
    """Add options to a command; their values become one argument."""

    @wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        images = {name: kwargs.pop(name) for name in _NAMES if name in kwargs}
        return command(*args, images=images, **kwargs)

    return with_options(gathered, options)  # type: ignore[return-value]


def read_data(
    data: str,
    images: dict[str, Any],
    *,
    quiet: bool = False,
    err: bool = False,
    like: Preprocessing | None = None,
    run: Path | None = None,
    choose: Callable[[ImageFiles], tuple[int, int]] | None = None,
) -> Dataset:
    """Return the Dataset that DATA names, and say what is known of image files, unless `quiet`.

    images: values of the options. err: True to say it on standard error. like: how a trained network reads images. run:
    where it was trained: files that it had stay in their parts, whatever the options say. choose: the size of images,
    of their files, where neither says it. Raises as `foveal.data.load` does, and ArgumentError for options of image
    files where DATA holds none.
    """
    from foveal.data import readers
    from foveal.errors import ArgumentError

    given = {
        name: value for name, value in images.items() if value is not None and value is not False and value != "auto"
    }
    if not readers.holds_images(data):
        # Of a path where nothing is any more, that is what has to be said.
        if given and (os.sep not in data or os.path.exists(data)):
            option = f"--{next(iter(given)).replace('_', '-')}"
            raise ArgumentError(f"{option} is for image files, and {data} holds none, or arrays; leave it out")
        return readers.load(data)
    of_scan: dict[str, Any] = {
        name: given[name] for name in ("group_by", "split", "background", "strict") if name in given
    }
    if like is not None:
        of_scan.setdefault("background", like.background)
    if run is not None:
        from foveal.train.run_file import division_of

        of_scan["before"] = division_of(run)
    files = readers.scan_images(Path(data), quiet=quiet, **of_scan)
    tell: Callable[[str], None] = (lambda line: None) if quiet else (lambda line: echo(line, err=err))
    show_scan(files, tell)
    how: dict[str, Any] = {name: given[name] for name in ("memory_limit", "data_cache") if name in given}
    if like is None:
        how["size"] = given.get("image_size") or (files.default_size() if choose is None else choose(files))
    else:
        how |= {"size": given.get("image_size") or like.size, "channels": like.channels, "fit": like.fit}
        how |= {"crop": like.crop, "interpolation": like.interpolation}
    return files.dataset(tell=tell, quiet=quiet, **how)


def learned_before(weights: str | Path | None, dataset: Dataset) -> str | None:
    """Return what is to be said where weights to start from have learned images that the new run holds out."""
    from foveal.data.scanning.membership import Division, size_of
    from foveal.train.run_file import division_of

    run = None if weights is None else Path(weights)
    division = division_of(run) if run is not None and run.exists() else Division()
    if dataset.files is None or dataset.folder is None or not division.parts:
        return None
    held_out = [path for part, paths in dataset.files.items() if part != "train" for path in paths]
    keys = division.keys(held_out, [size_of(path) for path in held_out], dataset.folder)
    count = sum(division.parts.get(key) == "train" for key in keys)
    if not count:
        return None
    return (
        f"{count:,} of the {len(keys):,} images for validation and testing are among those that {weights} was trained"
        " on: scores on them are too good. Divide the images as that run did, with its --group-by and --split"
    )


def expected_by(weights: str | Path | None) -> Preprocessing | None:
    """Return how weights to start from expect images to be read; None without weights, and where nothing says it."""
    from foveal.data.remote.pretrained import transforms_of
    from foveal.errors import DataError, StateError

    try:
        return None if weights is None else transforms_of(weights)
    except (DataError, StateError):
        # The training says so, or finds the weights elsewhere.
        return None


def show_scan(files: ImageFiles, tell: Callable[[str], None]) -> None:
    """Say what was found, and name the first files that are left out because of what is in them."""
    from foveal.data.scanning.image_files import REFUSED

    for line in files.lines():
        tell(line)
    refused = [problem for problem in files.problems if problem.kind in REFUSED]
    for problem in refused[:_NAMED]:
        tell(f"  {problem.path}: {problem.text}")
    if len(refused) > _NAMED:
        tell(f"  and {len(refused) - _NAMED:,} more")
