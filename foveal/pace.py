"""Pace: on how many threads a short program runs, by the times of its own runs. No bit of a result depends on it.

Whether a second thread pays depends on the machine and on what else runs there. On a busy machine a thread that is put
aside in the middle of its piece keeps the others waiting for milliseconds, more than all threads together save. So a
program measures: at first it runs by turns on all threads and on the caller's alone, then the way with the shorter
median, and now and then twice the other way, so that the choice follows the machine.

While the caller runs alone, the others fall asleep, and waking one takes longer than many a run. So a run counts only
if the one before it went the same way: it finds them awake where runs follow each other closely, and asleep elsewhere.
"""

from collections import deque
from statistics import median

# Times of each way that are kept. More than half of them have to change before the choice does.
WINDOW = 5
# The very first runs, in which threads are started and memory is touched, do not count.
UNCOUNTED = 2
# Runs that go the same way while both are measured, and when the other one is looked at; the first of them does not
# count.
TURN = 3
LOOK = 2
# After so many runs some go the other way. As long as the choice stays, it is twice as many from time to time, up to
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
        # runs that are left of a look
        self.looking = 0
        # whether the last run was on all threads, and whether the one before it went the same way
        self.way, self.follows = True, False

    @property
    def measured(self) -> bool:
        """True if the times of both ways are known."""
        return all(len(times) == WINDOW for times in self.seconds.values())

    def choose(self) -> int:
        """Return the number of threads of the next run."""
        self.runs += 1
        before, self.way = self.way, self.next_way()
        self.follows = self.way == before
        return self.together if self.way else 1

    def next_way(self) -> bool:
        """Return whether the next run is on all threads."""
        if not self.measured:
            return (self.runs - 1) // TURN % 2 == 0
        if self.looking == 0:
            pays = median(self.seconds[True]) < PAYS * median(self.seconds[False])
            if pays != self.pays:
                self.pays, self.interval, self.left = pays, FIRST_PROBE, FIRST_PROBE
            self.left -= 1
            if self.left < 0:
                self.interval = min(2 * self.interval, LAST_PROBE)
                self.left, self.looking = self.interval, LOOK
        if self.looking:
            self.looking -= 1
            return not self.pays
        return self.pays

    def note(self, threads: int, seconds: float) -> None:
        """Take note of how long the run that was chosen last took."""
        if self.runs <= UNCOUNTED or not self.follows:
            return
        self.seconds[threads > 1].append(seconds)
        if self.way != self.pays and self.measured:
            usual = median(self.seconds[self.pays])
            if (usual >= PAYS * seconds) if self.pays else (seconds < PAYS * usual):
                self.left = min(self.left, SOON)
