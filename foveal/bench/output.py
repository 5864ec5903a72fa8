"""What a benchmark prints and writes: a line about the machine, the table, the JSON file."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import llvmlite
import numpy as np
from llvmlite import binding
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from foveal import __version__, system
from foveal.bench.timing import Bench, Record
from foveal.errors import FovealError
from foveal.kernel.target import used
from foveal.names import printable
from foveal.peak import copy_rate

# Columns of text of a table that goes to a file or a pipe.
WIDTH = 150
# Bytes that are copied to measure the memory itself: more than the last cache holds.
LARGE = 1 << 28


def row_columns(other: str) -> dict[str, str]:
    """Return the columns of timed rows in order, with their formats; `other` is the framework compared with."""
    return {
        "name": "",
        "pass": "",
        "batch": "",
        "threads": "",
        "ours_ms": ".3f",
        f"{other}_ms": ".3f",
        f"{other}_mode": "",
        "ratio": ".2f",
        "gflops": ".1f",
        "peak_share": ".0%",
        "copy_share": ".0%",
        "ours_best_ms": ".3f",
        f"{other}_best_ms": ".3f",
    }


MEMORY_COLUMNS = {
    "name": "",
    "batch": "",
    "threads": "",
    "ours_mib": ".1f",
    "arena_mib": ".1f",
    "low_mib": ".1f",
    "torch_mib": ".1f",
    "torch_mode": "",
    "ratio": ".2f",
    "low_ratio": ".2f",
}
THREAD_COLUMNS = {
    "name": "",
    "batch": "",
    "threads": "",
    "one_ms": ".3f",
    "many_ms": ".3f",
    "speedup": ".2f",
    "one_best_ms": ".3f",
    "many_best_ms": ".3f",
    "speedup_best": ".2f",
    "model_ms": ".3f",
    "error": "+.1%",
}
PREDICTED_THREAD_COLUMNS = {
    "name": "",
    "batch": "",
    "threads": "",
    "step_ms": ".2f",
    "speedup": ".2f",
    "efficiency": ".0%",
    "uneven": ".1%",
    "barriers": ".1%",
    "memory": ".1%",
    "python": ".1%",
}
RANK_COLUMNS = {
    "name": "",
    "images": "",
    "gbits": "g",
    "delay_us": "g",
    "alone_ms": ".1f",
    "both_ms": ".1f",
    "step_ms": ".1f",
    "efficiency": ".1%",
    "beside": ".1%",
    "sent_mib": ".2f",
    "messages": "",
    "waiting": ".1%",
    "overlap": ".0%",
    "model_ms": ".1f",
    "error": "+.1%",
}
COMPILE_COLUMNS = {
    "name": "",
    "pass": "",
    "batch": "",
    "size": "",
    "cold_s": ".2f",
    "warm_s": ".2f",
    "cold_cpu_s": ".2f",
    "warm_cpu_s": ".2f",
    "model_s": ".2f",
    "kernels": "",
    "compiled": "",
    "code_mib": ".2f",
    "ir_mib": ".2f",
}


def counted_columns(threads: Sequence[int]) -> dict[str, str]:
    """Return the columns of what is counted in a step that these numbers of threads are to share."""
    begin = {"name": "", "batch": "", "calls": "", "barriers": "", "one_piece": ".2%", "pieces": ""}
    few = {f"under_{count}": ".1%" for count in threads}
    return {**begin, **few, "memory_mib": ".1f", "disputed_kib": ".1f", "far": ".0%"}


def predicted_columns(sizes: Sequence[int]) -> dict[str, str]:
    """Return the columns of what is predicted for these numbers of ranks."""
    begin = {"name": "", "images": "", "summed_mib": ".1f", "gbits": "g", "delay_us": "g"}
    return {**begin, **{f"on_{size}": ".1%" for size in sizes}, "half_used": ""}


def machine(bench: Bench) -> Record:
    """Return what the times depend on.

    target is what FOVEAL_TARGET calls the vectors, vector_width is in float32 lanes. The peak and the rate of copying
    are measured with these vectors on that number of threads.
    """
    versions = {
        "foveal": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "llvmlite": llvmlite.__version__,
        "llvm": ".".join(map(str, binding.llvm_version_info)),
        "torch": None,
    }
    # The framework that is compared with.
    if bench.against:
        versions[bench.other] = bench.against.version()
    return {
        "cpu": used().name,
        "system": f"{platform.system()} {platform.machine()}",
        "target": used().vectors,
        "vector_width": used().lanes,
        "processors": system.processors(),
        "threads": bench.threads,
        "repeats": bench.repeats,
        "peak_gflops": bench.peak,
        "copy_gbytes": copy_rate(bench.threads, LARGE),
        "versions": versions,
    }


def headline(machine: Record) -> str:
    """Return the machine in one line."""
    versions = " ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"{machine['cpu']}, {machine['target']} ({32 * machine['vector_width']}-bit vectors), {machine['threads']}"
        f" thread(s) on {machine['processors']} processor(s), peak {machine['peak_gflops']:.1f} GFLOP/s, copy"
        f" {machine['copy_gbytes']:.1f} GB/s, {versions}"
    )


def show(records: Sequence[Record], columns: Mapping[str, str]) -> None:
    """Print the table, without columns in which no row has a value; `columns` holds formats by column."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    chosen = [c for c in columns if any(record[c] is not None for record in records)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in chosen:
        text = any(isinstance(record[column], str) for record in records)
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    for record in records:
        table.add_row(*(cell(record[column], columns[column]) for column in chosen))
    console.print(table)


def cell(value: object, form: str) -> Text:
    """Return a value in its column's format; a dash if there is none."""
    return Text("-" if value is None else printable(format(value, form)))


def summary(records: Sequence[Record]) -> Record | None:
    """Return geometric mean and smallest of the rows' ratios, over all rows and in each pass; None without ratios."""
    passes: dict[str, list[Record]] = {}
    for record in records:
        if record["ratio"] is not None:
            passes.setdefault(record["pass"], []).append(record)
    if not passes:
        return None
    together = [record for rows in passes.values() for record in rows]
    return {name: ratios(rows) for name, rows in {"all": together, **passes}.items()}


def ratios(records: Sequence[Record]) -> Record:
    """Return geometric mean and smallest of the ratios of some rows."""
    smallest = min(records, key=lambda record: record["ratio"])
    mean = math.exp(sum(math.log(record["ratio"]) for record in records) / len(records))
    return {
        "rows": len(records),
        "geometric_mean": mean,
        "smallest": smallest["ratio"],
        "smallest_name": f"{smallest['name']} {smallest['pass']}",
    }


def show_summary(ratios: Record | None) -> None:
    """Print what `summary` returns, a line per pass."""
    for name, figures in (ratios or {}).items():
        click.echo(
            f"{name}: ratio {figures['geometric_mean']:.2f} (geometric mean of {figures['rows']}), smallest"
            f" {figures['smallest']:.2f} ({figures['smallest_name']})"
        )


def check_writable(path: Path | None) -> None:
    """Raise FovealError if the file cannot be written: before the timing, not after it."""
    if path and not os.access(system.place_of_file(path).parent, os.W_OK):
        raise FovealError(f"--save {path}: cannot be written; give a file in a folder that exists and is yours")


def write(path: Path | None, result: Record) -> None:
    """Write the result as JSON, if there is a path. An older file stays whole until the new one replaces it."""
    if path is None:
        return
    place = system.place_of_file(path)
    fresh = place.with_name(f".{place.name}.{os.getpid()}")
    fresh.write_text(json.dumps(result, indent=2) + "\n")
    fresh.replace(place)
