"""Pace: on how many threads a short program runs, by the times of its own runs. No bit of a result depends on it.

Whether a second thread pays depends on the machine and on what else runs there. On a busy machine a thread that is put
aside in the middle of its piece keeps the others waiting for milliseconds, more than all threads together save. So a
program measures: at first it runs by turns on all threads and on the caller's alone, then the way with the shorter
median, and now and then once the other way, so that the choice follows the machine.
"""

from collections import deque
from statistics import median

# Times of each way that are kept; more than half of them have to change before the choice does.
WINDOW = 9
# Runs of each way at first. The very first ones, in which threads are started and memory is touched, do not count.
TRIAL = 5
UNCOUNTED = 2
# Of so many runs one goes the other way: less than one in a hundred, so that the 99th percentile is not of such runs.
PROBE = 128
# Threads pay if they take less than this share of the time of one. Below it they would only keep processors busy.
PAYS = 0.95


class Pace:
    """The choice of one program."""

    def __init__(self, threads: int) -> None:
        self.together = threads
        #: seconds of the last runs on one thread and on all
        self.alone_seconds: deque[float] = deque(maxlen=WINDOW)
        self.together_seconds: deque[float] = deque(maxlen=WINDOW)
        self.runs = 0

    def choose(self) -> int:
        """Return the number of threads of the next run."""
        self.runs += 1
        alone, together = len(self.alone_seconds), len(self.together_seconds)
        if min(alone, together) < TRIAL:
            return self.together if together <= alone else 1
        pays = median(self.together_seconds) < PAYS * median(self.alone_seconds)
        return self.together if pays != (self.runs % PROBE == 0) else 1

    def note(self, threads: int, seconds: float) -> None:
        """Take note of how long a run took."""
        if self.runs > UNCOUNTED:
            (self.alone_seconds if threads == 1 else self.together_seconds).append(seconds)
