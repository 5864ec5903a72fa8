"""Pace: on how many threads a short program runs, by the times of its own runs. No bit of a result depends on it.

Whether a second thread pays depends on the machine and on what else runs there. On a busy machine a thread that is put
aside in the middle of its piece keeps the others waiting for milliseconds, more than all threads together save. So a
program measures: at first it runs by turns on all threads and on the caller's alone, then the way with the shorter
median, and now and then once the other way, so that the choice follows the machine.
"""

from collections import deque
from statistics import median

# Times of each way that are kept. More than half of them have to change before the choice does.
WINDOW = 5
# The very first runs, in which threads are started and memory is touched, do not count.
UNCOUNTED = 2
# After so many runs one goes the other way. As long as the choice stays, it is twice as many from time to time, up to
# less than one run in a hundred, so that the 99th percentile is not of such runs.
FIRST_PROBE = 16
LAST_PROBE = 256
# A look that the other way has won is followed by the next one so many runs later: a choice that is no longer right is
# not kept for long.
SOON = 2
# Threads pay if they take less than this share of the time of one. Below it they would only keep processors busy.
PAYS = 0.95


class Pace:
    """The choice of one program."""

    def __init__(self, threads: int) -> None:
        self.together = threads
        #: seconds of the last runs, by whether they were on all threads
        self.seconds: dict[bool, deque[float]] = {way: deque(maxlen=WINDOW) for way in (False, True)}
        # whether all threads pay, by what is known
        self.pays = True
        self.runs = 0
        # runs from one look at the other way to the next, and until the next one
        self.interval = self.left = FIRST_PROBE
        # whether the run that was chosen last goes the other way
        self.looking = False

    def choose(self) -> int:
        """Return the number of threads of the next run."""
        self.runs += 1
        alone, together = (len(self.seconds[way]) for way in (False, True))
        if min(alone, together) < WINDOW:
            return self.together if together <= alone else 1
        pays = median(self.seconds[True]) < PAYS * median(self.seconds[False])
        if pays != self.pays:
            self.pays, self.interval, self.left = pays, FIRST_PROBE, FIRST_PROBE
        self.left -= 1
        if self.left < 0:
            self.interval = min(2 * self.interval, LAST_PROBE)
            self.left, pays = self.interval, not pays
            self.looking = True
        return self.together if pays else 1

    def note(self, threads: int, seconds: float) -> None:
        """Take note of how long a run took."""
        if self.runs > UNCOUNTED:
            self.seconds[threads > 1].append(seconds)
        if self.looking and (threads > 1) != self.pays:
            usual = median(self.seconds[self.pays])
            if (usual >= PAYS * seconds) if self.pays else (seconds < PAYS * usual):
                self.left = min(self.left, SOON)
        self.looking = False
