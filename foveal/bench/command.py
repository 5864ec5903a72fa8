"""`foveal bench models` and `foveal bench ops`: the table, the line above it, and the JSON file."""

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import llvmlite
import numpy as np
from llvmlite import binding
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from foveal import __version__
from foveal.bench import models as model_rows
from foveal.bench import operators
from foveal.bench.timing import Against, Bench, Row
from foveal.errors import FovealError
from foveal.execute import get_threads
from foveal.kernel.target import host
from foveal.peak import peak

WIDTH = 150  # columns of a table that goes to a file or a pipe
COLUMNS: dict[str, str] = {  # in the table's order, with their formats
    "name": "", "pass": "", "batch": "", "threads": "",
    "ours_ms": ".3f", "torch_ms": ".3f", "torch_mode": "", "ratio": ".2f",
    "gflops": ".1f", "peak_share": ".0%", "ours_best_ms": ".3f", "torch_best_ms": ".3f",
}  # fmt: skip
TORCH_COLUMNS = ("torch_ms", "torch_mode", "ratio", "torch_best_ms")
MISSING = (
    "PyTorch is not installed here, so Foveal is timed alone; to compare with it:"
    ' pip install -e ".[compare]" in Foveal\'s folder'
)
REPEATS = 10

Rows = Callable[[Bench, Callable[[str], None]], Iterator[Row]]
Command = Callable[..., Any]


def shared(command: Command) -> Command:
    """The options of both commands."""
    options = (
        click.option("--against", type=click.Choice(["torch"]), help="Take turns with PyTorch."),
        click.option("--threads", type=click.IntRange(min=1), help="Native threads.  [default: all cores]"),
        click.option("--repeats", type=click.IntRange(min=1), default=REPEATS, show_default=True,
                     help="Turns of each contender."),
        click.option("--json", "path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
                     help="Write machine and rows to FILE, too."),
        click.argument("names", nargs=-1, metavar="[NAME]..."),
    )  # fmt: skip
    return reduce(lambda made, option: option(made), reversed(options), command)


@click.group()
def bench() -> None:
    """Time models and operators, also against torch.

    Contenders take turns in one process; the times are medians, the best_ms columns the fastest
    calls. ratio is torch_ms / ours_ms: above 1 Foveal is faster. torch_mode is the memory format in
    which torch was faster. gflops counts convolutions as direct ones, 2 operations per
    multiply-add, so that peak_share, the part of the measured peak of fused multiply-adds, passes
    100 % where a faster algorithm (Winograd) does less work.
    """


@bench.command("models")
@shared
def models(names: tuple[str, ...], **options: Any) -> None:
    """Time whole training steps (forward, loss, backward, SGD with momentum).

    NAMEs: lenet, resnet20; all of them if none is given.
    """
    works = model_rows.select(names)
    run(lambda bench, starting: model_rows.rows(works, bench, starting), **options)


@bench.command("ops")
@shared
@click.option("--cases", is_flag=True, help="Also every operator's small sample cases.")
def ops(names: tuple[str, ...], cases: bool, **options: Any) -> None:
    """Time single operators, native code alone.

    A NAME picks the rows that have each of its words in their name or pass, such as "conv2d dw",
    "3x3 64ch" or pool; all rows if none is given.
    """
    works = operators.select(names, cases)
    run(lambda bench, starting: operators.rows(works, bench, starting), **options)


def run(
    rows: Rows, against: str | None, threads: int | None, repeats: int, path: Path | None
) -> None:
    """Measure the peak, time the rows, print them and write them."""
    check_writable(path)
    threads = threads or get_threads()
    other = load(against)
    if against and other is None:
        click.echo(MISSING)
    if threads > processors():
        click.echo(
            f"{threads} threads share {processors()} processors, so they wait for each other."
        )
    with Console(stderr=True).status("peak") as status:
        bench = Bench(threads, repeats, peak(threads), other)
        found = machine(bench)
        records = [row.record() for row in rows(bench, lambda what: status.update(Text(what)))]
    click.echo(headline(found))
    show(records, TORCH_COLUMNS if other is None else ())
    write(path, {"machine": found, "rows": records})


def load(against: str | None) -> Against | None:
    """The framework to compare with; None where none is asked for or it is not installed."""
    if against is None or not installed(against):
        return None
    found: Against = import_module(f"foveal.bench.against_{against}")
    return found


def installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (
        ValueError
    ):  # a package without a specification, or one that is switched off in sys.modules
        return False


def processors() -> int:
    """Those this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(bench: Bench) -> dict[str, Any]:
    """What the times depend on. vector_width is in float32 lanes, peak_gflops measured on that number of threads."""
    return {
        "cpu": host().name,
        "system": f"{platform.system()} {platform.machine()}",
        "vector_width": host().lanes,
        "processors": processors(),
        "threads": bench.threads,
        "repeats": bench.repeats,
        "peak_gflops": bench.peak,
        "versions": {
            "foveal": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "llvmlite": llvmlite.__version__,
            "llvm": ".".join(map(str, binding.llvm_version_info)),
            "torch": bench.against.version() if bench.against else None,
        },
    }


def headline(found: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = " ".join(
        f"{name} {version}" for name, version in found["versions"].items() if version
    )
    return (
        f"{found['cpu']}, {32 * found['vector_width']}-bit vectors, {found['threads']} thread(s) on"
        f" {found['processors']} processor(s), peak {found['peak_gflops']:.1f} GFLOP/s, {versions}"
    )


def show(records: Sequence[dict[str, Any]], without: Sequence[str]) -> None:
    """The table on the screen."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    columns = [column for column in COLUMNS if column not in without]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        text = column in ("name", "pass", "torch_mode")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    for record in records:
        table.add_row(*(cell(record[column], COLUMNS[column]) for column in columns))
    console.print(table)


def cell(value: Any, form: str) -> Text:
    """A value in its column's format; a dash where there is none."""
    return Text("-" if value is None else format(value, form))


def check_writable(path: Path | None) -> None:
    """Say before the timing that the file cannot be written, not after it."""
    if path and not os.access(path.parent, os.W_OK):
        raise FovealError(
            f"--json {path}: cannot be written; give a file in a folder that exists and is yours"
        )


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Write the result as JSON, in one piece: an older file is whole until the new one replaces it."""
    if path is None:
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(result, indent=2) + "\n")
    fresh.replace(path)
