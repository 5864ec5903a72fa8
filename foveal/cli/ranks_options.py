"""Options of `foveal train` about shards, and the ranks that share them where mpiexec or srun has started several."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.options import COUNT_LIMIT, FiniteRange, with_options
from foveal.errors import FovealWarning

if TYPE_CHECKING:
    from foveal.distributed import Ranks

OPTIONS = (
    click.option(
        "--shards",
        type=click.IntRange(1, COUNT_LIMIT),
        help="Divide each batch into so many equal parts, which are taken one after the other, or by several ranks: the"
        " bits of the model follow from their number, and not from that of the ranks.  [default: 8 under mpiexec]",
    ),
    click.option(
        "--compress-gradients",
        "compress",
        type=click.Choice(["float16", "int8"]),
        help="Send gradients between ranks in 2 bytes or 1 each, in place of 4. What rounding loses is added in the"
        " next step. Needs --shards or mpiexec.",
    ),
    click.option(
        "--sync-batch-norm",
        is_flag=True,
        help="Let batch norms normalise all shards of a batch as one, and not each by itself: for shards of few images."
        " A rank then holds the activations of all of its shards at once. Needs --shards or mpiexec.",
    ),
    click.option(
        "--rank-timeout",
        type=FiniteRange(0, 1e6, min_open=True),
        metavar="SECONDS",
        help="Under mpiexec: name a rank that does not answer for so long, and end.  [default: 1800]",
    ),
    click.option(
        "--elastic",
        is_flag=True,
        help="Under mpiexec --with-ft ulfm: go on at once with the ranks that are left when some are killed or their"
        " machines fail.",
    ),
)


def ranks_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    return with_options(command, OPTIONS)


@contextmanager
def ranks_of_job(timeout: float | None, elastic: bool) -> Iterator[Ranks]:
    """Give the ranks that this process is one of; an error in the block ends all.

    timeout, elastic: of --rank-timeout and --elastic.
    """
    from foveal.distributed import ranks
    from foveal.distributed.launch import together

    found = ranks(elastic=elastic) if timeout is None else ranks(timeout, elastic)
    with together(found), warnings.catch_warnings():
        if not found.first:
            # Rank 0 says the same.
            warnings.simplefilter("ignore", FovealWarning)
        yield found
