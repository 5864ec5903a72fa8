"""What a training step on shards is made with: its options, checked."""

from typing import Any

from foveal.accumulate import is_sum
from foveal.distributed.compress import codec_of
from foveal.distributed.ranks import Ranks
from foveal.distributed.sharded import SHARDS, ShardWindow
from foveal.errors import ArgumentError, ShapeError


def check_compress(compress: str | None, ranks: Ranks) -> None:
    """Raise ShapeError for another `compress` than there is, and ArgumentError where ranks cannot go on with it."""
    if codec_of(compress) is not None and ranks.elastic is not None:
        raise ArgumentError(
            f"compress (--compress-gradients) is {compress!r} and ranks are elastic (--elastic): what rounding has lost"
            " on a rank that is gone would be gone too, and the bits be others; leave one of the two out"
        )


def shard_window(
    optimizer: Any,
    loss: object,
    shards: int | None,
    ranks: Ranks | None,
    accumulate: int,
    threads: int | None,
    compress: str | None,
    sync_batch_norm: bool,
) -> ShardWindow | None:
    """Return the window of a step on shards; None for a step on whole batches. Raises ShapeError, ArgumentError."""
    codec = codec_of(compress)
    if shards is None and ranks is not None:
        shards = SHARDS
    if shards is not None and shards < 1:
        raise ShapeError(f"compile_step: shards is {shards}; a batch has 1 or more")
    if shards is None and sync_batch_norm:
        raise ShapeError(
            "compile_step: sync_batch_norm normalises the shards of a batch as one, and there are none: give shards=8,"
            " or leave it out, as a batch that is taken whole is normalised as one already"
        )
    if shards is None or (shards == 1 and ranks is None):
        if codec is not None:
            raise ShapeError(
                f"compile_step: compress is {compress!r} and there are no shards: gradients are sent between the ranks"
                " that share the shards of a batch; give shards or ranks as well, or leave compress out"
            )
        return None
    if accumulate > 1:
        raise ShapeError(
            f"compile_step: accumulate is {accumulate} and shards {shards}: an update takes its shards one after the"
            " other already; leave accumulate out, and give larger batches of more shards"
        )
    ranks = Ranks() if ranks is None else ranks
    check_compress(compress, ranks)
    return ShardWindow(optimizer, shards, is_sum(loss), threads, ranks, codec, sync_batch_norm)
