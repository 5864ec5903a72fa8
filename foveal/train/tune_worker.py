"""A process that makes short runs for another one, which tune_crew.py starts.

A message that comes in is a pickled pair, the name of a method of ShortRuns and its arguments; the answer to it is a
pickled pair, what that returns and the error that it raises, one of them None. The first message, `begin`, is the task.
"""

from __future__ import annotations

import importlib
import mmap
import pickle
import traceback

import foveal
from foveal import children
from foveal.errors import FovealError
from foveal.kernel.sources import imported_digest
from foveal.train.short_runs import ShortRuns, Task


def serve() -> None:
    """Make short runs until standard input is closed. It then ends at once, whatever it is doing."""
    children.serve(Answers().answer, imported_digest().encode())


class Answers:
    """Answers messages."""

    runs: ShortRuns

    def answer(self, request: bytes) -> bytes:
        """Return the answer to a message."""
        result, raised = None, None
        try:
            name, arguments = pickle.loads(request)
            method = getattr(self if name == "begin" else self.runs, name)
            result = method(*arguments)
        except Exception as error:
            raised = portable(error)
        return pickle.dumps((result, raised), pickle.HIGHEST_PROTOCOL)

    def begin(self, modules: tuple[str, ...], content: bytes, places: list[tuple[int, int]], file: int = -1) -> None:
        """Take a task as `packed` gives it, whose arrays are in an open file. modules: what it needs imported."""
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise FovealError(
                    f"tune: a worker cannot import {module}, which defines the optimizer ({error}); put it where Python"
                    " looks for modules, or leave workers out"
                ) from None
        # Read alone, and shared by all that map it.
        memory = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ)) if places else memoryview(b"")
        task: Task = pickle.loads(content, buffers=[memory[first : first + length] for first, length in places])
        foveal.set_threads(task.settings.threads)
        self.runs = ShortRuns(task)


def portable(error: Exception) -> Exception:
    """Return an error that can be sent, with a note of where it was raised."""
    error.add_note(f"In a worker of tune:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
        return error
    # Whatever such an error holds, or needs to be made.
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
