"""What commands share: arguments and options, tables."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click


class Name(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """One of a list of names that is only imported when a value or the help needs it."""

    name = "name"

    def __init__(self, module: str) -> None:
        self.module = module

    def names(self) -> Sequence[str]:
        found: Sequence[str] = importlib.import_module(self.module).NAMES
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        known = {bare(name): name for name in self.names()}
        if bare(value) not in known:
            self.fail(f"{value!r} is not one of {', '.join(self.names())}.", param, ctx)
        return known[bare(value)]


def bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


POSITIVE = click.IntRange(min=1)
threads_option = click.option("--threads", type=POSITIVE, help="Native threads.  [default: all cores]")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and no table.")
run_argument = click.argument("run", type=click.Path(path_type=Path))


def set_threads(threads: int | None) -> None:
    import foveal

    if threads is not None:
        foveal.set_threads(threads)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text, since names may hold rich's markup
    Console().print(table)
