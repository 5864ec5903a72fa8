"""What commands share: arguments and options, and printing tables."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from functools import reduce
from os.path import abspath, basename, dirname, isfile, splitext
from pathlib import Path
from typing import Any, TypeVar

import click

from foveal.cli.streams import Stream
from foveal.names import bare, meant, printable

Command = TypeVar("Command", bound=Callable[..., Any])
# Busy processes that --load starts at most.
MOST_BUSY = 1024


class Name(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """One of the names in NAMES of a module, which is only imported when a value or the help needs it."""

    name = "name"

    def __init__(self, module: str) -> None:
        self.module = module

    def names(self) -> Collection[str]:
        """Return the names that can be given."""
        names: Collection[str] = importlib.import_module(self.module).NAMES
        return names

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = {bare(name): name for name in self.names()}
        if bare(value) not in known:
            self.fail(f"{value!r}{meant(value, self.names())} is not one of {', '.join(self.names())}.", param, ctx)
        return known[bare(value)]


# Under which name a context of click holds the words after the name of the command.
TYPED = "foveal.typed"


class DataCommand(click.Command):
    """A command on DATA: its help ends with what can be read, from the table of formats.

    Its results are files, so it goes on when standard output cannot be written, which it says once.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # As they were typed: what options make of them may not be what they take.
        ctx.meta[TYPED] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        output = ctx.find_object(Stream)
        if output is not None:
            output.optional = True
        return super().invoke(ctx)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from foveal.data.readers import ACCEPTED

        super().format_help_text(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"{ACCEPTED}.")


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN, which every comparison lets pass, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def checked_threads(ctx: click.Context, param: click.Parameter, threads: int | None) -> int | None:
    """Return the number of threads; raise ShapeError for one that there cannot be, before anything else is done."""
    if threads is not None:
        from foveal.workers import check_threads

        check_threads(threads)
    return threads


# More of anything that is counted one by one, such as epochs, is a slip of the finger.
COUNT_LIMIT = 10**6
POSITIVE = click.IntRange(1, COUNT_LIMIT)
TWO_OR_MORE = click.IntRange(2, COUNT_LIMIT)
# Rates, decays and norms that float32 keeps apart from 0 and from infinity when they are multiplied.
ABOVE_ZERO = FiniteRange(1e-18, 1e18)
NOT_NEGATIVE = FiniteRange(0, 1e18)
FRACTION = FiniteRange(0, 1, max_open=True)
SEED = click.IntRange(0, 2**32 - 1)

threads_option = click.option(
    "--threads", type=POSITIVE, callback=checked_threads, help="Native threads.  [default: all cores]"
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of text; all else goes to standard error."
)
run_argument = click.argument("run", type=click.Path(path_type=Path))


code_option = click.option(
    "--code",
    multiple=True,
    metavar="FILE",
    help="A Python file, or the name of a module, with the classes of a network of one's own. It is run. Nothing that a"
    " model file names is.",
)


def classes_in(code: Iterable[str]) -> list[type]:
    """Run Python files, or import modules, and return the networks' classes in them. Raises DataError if that fails."""
    from foveal.errors import DataError
    from foveal.nn import Module

    found: list[type] = []
    for place in code:
        try:
            if not isfile(place):
                module = importlib.import_module(place)
            else:
                # As for a program: what lies beside it can be imported.
                sys.path.insert(0, dirname(abspath(place)))
                spec = importlib.util.spec_from_file_location(splitext(basename(place))[0], place)
                if spec is None or spec.loader is None:
                    raise ImportError("not a Python file")
                module = importlib.util.module_from_spec(spec)
                sys.modules.setdefault(module.__name__, module)
                spec.loader.exec_module(module)
        except Exception as error:
            raise DataError(f"--code {place}: cannot be imported ({type(error).__name__}: {error})") from error
        found += [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Module)]
    return found


def with_options(command: Command, options: Sequence[Callable[[Any], Any]]) -> Command:
    """Return a command with these options, which its help lists in this order."""
    return reduce(lambda decorated, option: option(decorated), reversed(options), command)


def set_threads(threads: int | None) -> None:
    """Use that many native threads in this process; None leaves their number as it is."""
    import foveal

    if threads is not None:
        foveal.set_threads(threads)


def echo(text: str, err: bool = False) -> None:
    """Print a line of text, in which names of classes and files may stand, to standard output or standard error."""
    click.echo(printable(text), err=err)


def show_json(document: object) -> None:
    """Print one JSON document, in a line; NaN and infinity, which JSON does not have, as null."""
    click.echo(json.dumps(finite(document), allow_nan=False))


def finite(value: object) -> object:
    """Return a value with None in place of numbers that are NaN or infinite."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text below the names of their columns, which may all be empty."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=any(columns))
    for column in columns:
        table.add_column(Text(printable(column)), overflow="fold")
    for row in rows:
        # As Text, since a plain string may hold what rich takes for markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def process_counts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Return the numbers of processes that a text such as "0,1,4" names; none if it is not given."""
    counts = tuple((value or "").split(",")) if value is not None else ()
    for count in counts:
        if not (count.strip().isdecimal() and int(count) <= MOST_BUSY):
            raise click.BadParameter(f"{count!r} is no number of processes from 0 to {MOST_BUSY}")
    return different(map(int, counts))


def different(values: Iterable[Hashable]) -> tuple[Any, ...]:
    """Return the values of a list that a user gives. Raises BadParameter where one is given twice."""
    found = tuple(values)
    for value in dict.fromkeys(found):
        if (count := found.count(value)) > 1:
            raise click.BadParameter(f"{value} is given {count} times, once is enough")
    return found


# of commands that time something beside busy processes
load_option = click.option(
    "--load",
    "loads",
    callback=process_counts,
    metavar="LIST",
    help="Busy processes beside it, one number or several, such as 0,1,2,4.",
)
