"""Options of foveal bench: those that all its commands share, and those about threads that are predicted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from foveal.bench.thread_model import MEMORY_RATE
from foveal.bench.timing import MODES
from foveal.cli.options import ABOVE_ZERO, POSITIVE, different, json_option, threads_option
from foveal.errors import FovealError
from foveal.kernel import target as targets

# Threads that are predicted at most.
MOST_THREADS = 1024
# Enough for the median to be steady where other processes run at the same time.
REPEATS = 10

# What click gives to a command and to its options.
Decorator = Callable[[Callable[..., None]], Callable[..., None]]


@dataclass(frozen=True)
class BenchOptions:
    """The options that all commands share."""

    threads: int | None
    repeats: int
    #: The JSON file to write, if any, and whether JSON is printed, too.
    path: Path | None
    as_json: bool = False
    #: The frameworks to compare with, if any.
    against: Sequence[str] = ()
    modes: Sequence[str] = MODES


def mode_names(known: Sequence[str], value: str | None) -> tuple[str, ...]:
    """Return the modes that a text such as "contiguous,compile" names; none if it is not given."""
    names = tuple(name.strip() for name in value.split(",")) if value is not None else ()
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(known)}")
    return different(names)


def thread_counts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Return the numbers of threads that a text such as "8,16,64" names; none if it is not given."""
    counts = value.split(",") if value is not None else []
    for count in counts:
        if not (count.strip().isdecimal() and 1 <= int(count) <= MOST_THREADS):
            raise click.BadParameter(f"{count!r} is no number of threads from 1 to {MOST_THREADS}")
    return different(map(int, counts))


target_option = click.option(
    "--target",
    type=click.Choice([*(name for names in targets.VECTORS.values() for name in names), targets.HOST]),
    help="Vectors of this CPU to compile for, as FOVEAL_TARGET names them.",
)
predict_option = click.option(
    "--predict", callback=thread_counts, metavar="LIST", help="Numbers of threads to predict, such as 8,16,64."
)
bandwidth_option = click.option(
    "--bandwidth",
    type=ABOVE_ZERO,
    default=MEMORY_RATE,
    show_default=True,
    help="GB/s that the machine which is predicted copies at most.",
)


def shared_options(
    frameworks: Sequence[str], modes: Sequence[str], repeats: int | None, threads: bool
) -> list[Decorator]:
    """Return the options and arguments of a command, in the order in which --help lists them."""
    found: list[Decorator] = [threads_option] if threads else []
    if repeats:
        text = "Rounds of measurement."
        found.append(click.option("--repeats", type=POSITIVE, default=repeats, show_default=True, help=text))
    found += [
        json_option,
        click.option(
            "--save",
            "path",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Also write what --json prints to FILE.",
        ),
        target_option,
        click.argument("names", nargs=-1, metavar="[NAME]..."),
    ]
    return found + (comparison_options(frameworks, modes) if frameworks else [])


def comparison_options(frameworks: Sequence[str], modes: Sequence[str]) -> list[Decorator]:
    """Return the options about what a command compares with."""
    several = " May be repeated; the fastest counts." if len(frameworks) > 1 else ""
    return [
        click.option(
            "--against", type=click.Choice(frameworks), multiple=True, help="Framework to compare with." + several
        ),
        click.option(
            "--modes",
            callback=lambda context, parameter, value: mode_names(modes, value),
            metavar="LIST",
            help=f"PyTorch's modes to measure; the fastest counts.  [default: {','.join(modes)}]",
        ),
    ]


def bench_options(
    *frameworks: str, modes: Sequence[str] = MODES, repeats: int | None = REPEATS, threads: bool = True
) -> Decorator:
    """Return a decorator that gives a command the shared options, as one argument `options: BenchOptions`.

    frameworks: those that the command can compare with; modes: those of PyTorch that it can measure.
    repeats: how many rounds it measures by default; None if it has no use for several.
    threads: False if it does not let their number be chosen.
    """

    known = modes

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def collect(
            path: Path | None,
            as_json: bool,
            threads: int | None = None,
            repeats: int = 1,
            against: Sequence[str] = (),
            modes: Sequence[str] = (),
            target: str | None = None,
            **others: Any,
        ) -> None:
            if modes and "torch" not in against:
                raise FovealError("bench: --modes are PyTorch's, which is not compared with; add --against torch")
            if target is not None:
                targets.use(target, "--target")
            command(options=BenchOptions(threads, repeats, path, as_json, against, modes or known), **others)

        # the last one decorates first
        options = reversed(shared_options(frameworks, modes, repeats, threads))
        decorated: Callable[..., None] = collect
        for option in options:
            decorated = option(decorated)
        return decorated

    return decorate
