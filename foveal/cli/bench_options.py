"""Options of foveal bench about the vectors that are compiled for, and about threads that are predicted."""

import click

from foveal.bench.thread_model import MEMORY_RATE
from foveal.cli.options import ABOVE_ZERO
from foveal.kernel import target as targets

# Threads that are predicted at most.
MOST_THREADS = 1024


def thread_counts(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Return the numbers of threads that a text such as "8,16,64" names; none if it is not given."""
    counts = value.split(",") if value is not None else []
    for count in counts:
        if not (count.strip().isdecimal() and 1 <= int(count) <= MOST_THREADS):
            raise click.BadParameter(f"{count!r} is no number of threads from 1 to {MOST_THREADS}")
    return tuple(dict.fromkeys(map(int, counts)))


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
