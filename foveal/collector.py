"""Python's garbage collector, paused while many objects are made that live on.

The collector goes through all living objects again and again while their number grows. A graph of some thousand nodes
and what is planned with it grow for seconds, hold few cycles, and are alive to the end: there is nothing to collect.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

# a token for each pause in progress, of any thread
_pauses: set[object] = set()


@contextmanager
def paused() -> Iterator[None]:
    """Inside of the block nothing is collected, if the collector was on; the last pause to end turns it on again.

    Without a lock, so that an interruption (Ctrl-C) at any place leaves nothing behind: every pause ends with its token
    taken away and then a look whether any is left. A thread that begins right then is not paused, which is slower only.
    """
    if not (gc.isenabled() or _pauses):
        # It was turned off by the user, and stays so.
        yield
        return
    token = object()
    try:
        _pauses.add(token)
        gc.disable()
        yield
    finally:
        try:
            _pauses.discard(token)
        finally:
            if not _pauses:
                gc.enable()


def after_in_child() -> None:
    """Turn the collector on in a forked child, where the pauses of other threads do not end."""
    if _pauses:
        _pauses.clear()
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_in_child)
