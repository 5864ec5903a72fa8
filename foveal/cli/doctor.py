"""foveal doctor."""

from __future__ import annotations

from typing import Any

import click

from foveal import __version__
from foveal.cli.cache import clear_cache as clear
from foveal.cli.options import echo, json_option, show_json, show_table


@click.command()
@click.option("--clear-cache", is_flag=True, help="Delete the compiled programs kept on disk.")
@json_option
def doctor(clear_cache: bool, as_json: bool) -> None:
    """Show what Foveal finds on this machine, and check that compiled code works.

    --json prints "cpu", "target" (its vectors, those it could have, what FOVEAL_TARGET says), "lanes" (float32 in a
    vector), "registers", "caches" (bytes planned with, and reported),
    "cores", "threads", "compiling_processes", "cache" (the folder, its files, what was compiled again for another
    shape or another attribute, and the problem if it is not used), "versions", and "self_test" with its milliseconds.
    """
    from foveal.kernel import cache

    if clear_cache:
        clear(as_json)
        return
    if as_json:
        show_json({**facts(), "versions": versions(), "self_test": {"passed": True, "milliseconds": self_test()}})
        return
    show_table(("", ""), [*machine().items(), *versions().items()])
    if cache.directory() == cache.OFF:
        echo("The kernel cache is switched off: every process compiles its kernels again.")
    elif reason := cache.problem():
        echo(f"The kernel cache is not used: {reason}; {cache.WAY_OUT}. Every process compiles its kernels again.")
    elif not cache.writable():
        echo("The cache cannot be written: every process will compile its kernels again.")
    echo(f"Self-test: a convolution compiled and ran right in {self_test():.0f} ms.")


def facts() -> dict[str, Any]:
    """Return what is found about the CPU, the threads and the cache, as numbers and texts."""
    import foveal
    from foveal import children, counts
    from foveal.kernel import cache, pool, target
    from foveal.system import processors

    used, read = target.used(), target.read_caches()
    files, size = cache.size()
    off = cache.directory() == cache.OFF
    return {
        "cpu": used.name,
        "target": {"used": used.vectors, "possible": list(target.choices(target.host())), "asked": target.asked()},
        "lanes": used.lanes,
        "registers": used.registers,
        "caches": {name: {"planned": getattr(used, name), "reported": read.get(name)} for name in ("l1", "l2", "llc")},
        "cores": processors(),
        "threads": foveal.get_threads(),
        "compiling_processes": pool.jobs() if children.obstacle() is None else 1,
        "cache": {
            "folder": str(cache.directory()),
            "files": files,
            "bytes": size,
            "kept": cache.writable(),
            "problem": "switched off" if off else cache.problem(),
            "compiled_again": counts.counted(),
        },
    }


def machine() -> dict[str, str]:
    """Return the rows of the table about the CPU, the threads and the cache of compiled kernels."""
    import foveal
    from foveal import children, counts
    from foveal.kernel import cache, pool, target
    from foveal.system import processors

    again = counts.counted()
    used = target.used()
    read = target.read_caches()
    files, size = cache.size()
    return {
        "CPU": used.name,
        "target": vectors(used.vectors, target.asked(), list(target.choices(target.host()))),
        "vector width": f"{32 * used.lanes} bits = {used.lanes} float32",
        "vector registers": str(used.registers),
        "level 1 data cache": cache_size(used.l1, read.get("l1")),
        "level 2 cache": cache_size(used.l2, read.get("l2")),
        "last level cache": cache_size(used.llc, read.get("llc")),
        "cores available": str(processors()),
        "threads used": str(foveal.get_threads()),
        "compiling processes": compiling(pool.jobs(), children.obstacle()),
        "kernel cache": str(cache.directory()),
        "kernel cache size": f"{files} files, {size / 1e6:.1f} MB",
        "compiled again": f"{again['shapes']} times for another shape, {again['attributes']} for another attribute"
        " (DEBUG=1 says which)",
    }


def vectors(used: str, asked: str, possible: list[str]) -> str:
    """Return which vectors kernels are shaped for, why, and how to have others, as text."""
    why = "the widest vectors of this CPU" if asked in ("", "host") else "chosen by FOVEAL_TARGET"
    return f"{used}, {why}; FOVEAL_TARGET can be {', '.join((*possible, 'host'))}"


def compiling(jobs: int, obstacle: str | None) -> str:
    """Return how many processes compile a large network, and why it is no more than one, as text."""
    return f"1, as {obstacle}" if obstacle is not None else f"{jobs} (FOVEAL_JOBS sets another number)"


def cache_size(planned: int, read: int | None) -> str:
    """Return the bytes of a CPU cache that kernels plan with, next to what the machine reports, as text."""
    reported = "not reported by this machine" if read is None else f"this machine reports {read >> 10:,} KiB"
    return f"{planned >> 10:,} KiB planned with; {reported}"


def versions() -> dict[str, str]:
    """Return the rows of the table about versions."""
    import platform

    import llvmlite
    import numpy as np
    from llvmlite import binding

    return {
        "foveal": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "llvmlite": llvmlite.__version__,
        "LLVM": ".".join(map(str, binding.llvm_version_info)),
    }


def self_test() -> float:
    """Compile a small convolution, run it and compare it with NumPy; return the milliseconds that this took.

    Raises click.ClickException if the result is wrong.
    """
    import time

    import numpy as np

    from foveal import nn

    conv = nn.Conv2d(3, 9, 3, padding=1)
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 11), dtype=np.float32)
    started = time.perf_counter()
    y = np.asarray(conv(x))
    seconds = time.perf_counter() - started
    # The same in NumPy: windows [N, C, P, Q, R, S] times filters [K, C, R, S].
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    state = conv.state_dict()
    expected = np.einsum("ncpqrs,kcrs->nkpq", windows, state["weight"])
    expected += state["bias"][:, None, None]
    error = float(np.abs(y - expected).max())
    if not error < 1e-4:
        raise click.ClickException(
            f"compiled code is wrong on this machine: a convolution is off by {error:g}. "
            "Please report it with the table above; `foveal doctor --clear-cache` may help"
        )
    return seconds * 1e3
