"""Work in threads whose results come in order, and a bar for what takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from foveal.system import processors

if TYPE_CHECKING:
    from rich.progress import Progress

# Seconds of which nothing is said.
_QUIET_SECONDS = 1.0

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    function: Callable[[T], R], items: Iterable[T], threads: int = 0, ahead: int = 0
) -> Generator[R, None, None]:
    """Yield function(item) of each item in their order, computed by threads.

    threads: how many; as many as processors if 0. ahead: how many results may wait; twice as many as threads if 0. An
    error comes out where the result would. Whoever stops earlier ends the threads by closing the generator.
    """
    threads = threads or processors()
    pool = ThreadPoolExecutor(threads, "foveal-data")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= (ahead or 2 * threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Bar:
    """How much is done of something that takes time: a bar on a terminal that goes away, else a line at its begin.

        with Bar("decoding", 60_000, "images") as bar:
            bar.advance(16)

    Nothing is said of what takes less than a second, and nothing at all if `quiet`.
    """

    def __init__(self, what: str, total: int, things: str, quiet: bool = False) -> None:
        self.text, self.total, self.quiet = f"{what} {total:,} {things}", total, quiet
        self.started, self.done, self.said = time.perf_counter(), 0, False
        # The live bar, where there is one.
        self.progress: Progress | None = None

    def __enter__(self) -> Bar:
        return self

    def advance(self, count: int = 1) -> None:
        """Count what is done."""
        self.done += count
        if not self.said and not self.quiet and time.perf_counter() - self.started > _QUIET_SECONDS:
            self.said = True
            self.begin()
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], completed=self.done)

    def begin(self) -> None:
        """Say what goes on."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        if not console.is_terminal:
            print(f"{self.text} ...", file=sys.stderr, flush=True)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(*columns, console=console, transient=True, refresh_per_second=4)
        self.progress.add_task(self.text, total=self.total)
        self.progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
