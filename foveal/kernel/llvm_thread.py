"""The one thread that uses LLVM.

Python runs signal handlers in the main thread, between any two of its steps: what a handler raises, such as Ctrl-C's
KeyboardInterrupt, may be raised inside of llvmlite, between the call that frees an object and the note that it is
freed, and the object is freed again when it is collected. Compiling takes seconds, so that is where people press
Ctrl-C. Therefore nothing but this thread calls `llvmlite.binding`, and handlers do not run here. Foveal's main thread
waits; an interruption is raised when the function that runs, such as the compilation of one kernel, has come to its
end.

Objects of llvmlite are freed in this thread as well. A function that is handed over returns none of them, and frames
of an error it raises are cleared here. What lives longer, an engine, is kept by `keep_while`.

In a forked child there is no such thread; the next call starts one. A fork waits until LLVM rests, so that no lock of
LLVM or of llvmlite is held in the child for ever. The process does not end while LLVM works.
"""

import atexit
import threading
import traceback
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from foveal import forks

Result = TypeVar("Result")


class Closable(Protocol):
    """An object of llvmlite."""

    def close(self) -> None: ...


class Job(Generic[Result]):
    """A function that is to run in this thread, and what has become of it."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self.function = function
        # held by the thread that runs the function, or by the caller, who has given up before it ran
        self.claim = threading.Lock()
        # released when the function has ended; the flag is set before
        self.ended = threading.Lock()
        self.ended.acquire()
        self.has_ended = False
        self.results: list[Result] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run the function, unless the caller has given up."""
        if not self.claim.acquire(blocking=False):
            return
        try:
            self.results.append(self.function())
        except BaseException as error:
            clear_frames(error)
            self.error = error
        finally:
            self.has_ended = True
            self.ended.release()


class Kept(weakref.ref[Any]):
    """An object of llvmlite that is closed when another object, which this reference is to, has died."""

    #: what is closed
    resource: Closable


class LLVMThread(forks.Locked):
    """What this process has of the thread.

    The lock is held while LLVM works, while the process forks, and from the moment on when it ends.
    """

    def __init__(self) -> None:
        # the process ends: what is still asked for runs in the thread that asks
        self.ending = False
        super().__init__(forks.LLVM)

    def renew(self) -> None:
        """Begin anew, also in a forked child, where what the parent keeps stays until the child ends."""
        super().renew()
        self.starting = threading.RLock()
        self.queue: SimpleQueue[Job[Any] | Kept] = SimpleQueue()
        self.thread: threading.Thread | None = None


_state = LLVMThread()
# `inside`: true in the thread that serves
_local = threading.local()
# all that is to be closed some time; they have to be reachable from here, or they would not be called
_kept: set[Kept] = set()


def clear_frames(error: BaseException) -> None:
    """Drop the local variables of all frames that an error holds, and of those it was raised from."""
    chain: BaseException | None = error
    seen: set[int] = set()
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


def serve() -> None:
    """Run one function after another, for ever."""
    _local.inside = True
    queue = _state.queue
    while True:
        item = queue.get()
        with _state.lock:
            if isinstance(item, Kept):
                _kept.discard(item)
                item.resource.close()
            else:
                item.run()
        # the queue may be empty for long, and nothing is kept alive here in the meantime
        del item


def start() -> None:
    """Start the thread, unless it runs."""
    with _state.starting:
        if _state.thread is None:
            thread = threading.Thread(target=serve, daemon=True, name="foveal LLVM")
            thread.start()
            _state.thread = thread


def run(function: Callable[[], Result]) -> Result:
    """Return what the function returns when it is called in this thread, or raise what it raises.

    It is short, waits for no other thread, and returns no object of llvmlite. An interruption is raised when it has
    ended, or at once if it has not begun.
    """
    if getattr(_local, "inside", False):
        return function()
    if _state.ending:
        with _state.lock:
            return function()
    job = Job(function)
    try:
        if _state.thread is None:
            start()
        _state.queue.put(job)
        while not job.has_ended:
            job.ended.acquire()
    except BaseException:
        if not job.claim.acquire(blocking=False):
            # once more, whatever interrupts it now
            while not job.has_ended:
                try:
                    job.ended.acquire()
                except BaseException:
                    continue
        raise
    if job.error is None:
        return job.results[0]
    try:
        raise job.error
    finally:
        # the error's traceback holds this frame, which must not hold the error
        del job


def keep_while(owner: object, resource: Closable) -> None:
    """Keep an object of llvmlite as long as `owner` lives, then close it. To be called in this thread.

    When the owner dies the queue's own `put` is called, which is no Python code that an interruption could cut short.
    """
    kept = Kept(owner, _state.queue.put)
    kept.resource = resource
    _kept.add(kept)


def kept() -> int:
    """Return how many objects are kept now, when all that can be closed has been."""
    return run(lambda: len(_kept))


def end() -> None:
    """Let LLVM work no more in other threads, since the process ends; an interruption does not hasten that."""
    _state.ending = True
    forks.take([_state.lock], [])


atexit.register(end)
