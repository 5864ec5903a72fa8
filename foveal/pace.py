"""Pace: on how many threads a short program runs, by the times of its own runs. No bit of a result depends on it.

Whether a second thread pays depends on the machine and on what else runs there. On a busy machine a thread that is put
aside in the middle of its piece keeps the others waiting for milliseconds, more than all threads together save. So a
program measures: at first it runs on all threads for a while and then on the caller's alone, then the way with the
shorter median, and now and then the other way, so that the choice follows the machine.

While the caller runs alone, the others fall asleep, and so do their processors: a thread that wakes finds a low clock
rate and empty caches, and the first runs on all threads may take several times as long as those that follow, for up to
0.7 ms of work (Zen 3). So runs on all threads count only after some time of them, unless they are faster already. A
pause makes that time begin anew. Where the runs from one pause to the next take less than it, as single calls that are
far apart do, all count: to count those that are faster, and few of the others, would be to choose by the faster ones.
"""

from collections import deque

# Times of each way that are kept. More than half of them have to change before the choice does.
WINDOW = 5
# The very first runs, in which threads are started and memory is touched, do not count.
UNCOUNTED = 2
# Seconds of runs on all threads, after runs on one or after a pause longer than that, that do not count.
SETTLING = 1e-3
# Runs of a look at the other way at most. It ends with the first run that counts and is slower, or when enough are
# faster for the choice to change.
LOOK = 16
# After so many runs there is a look at the other way. As long as the choice stays, it is twice as many from time to
# time, up to less than one run in a hundred, so that the 99th percentile is not of such runs.
FIRST_PROBE = 16
LAST_PROBE = 128 * LOOK
# Threads pay if they take less than this share of the time of one. Below it they would only keep processors busy.
PAYS = 0.95


class Pace:
    """The choice of one program."""

    def __init__(self, threads: int) -> None:
        self.together = threads
        #: seconds of the last runs, by whether they were on all threads
        self.seconds: dict[bool, deque[float]] = {way: deque(maxlen=WINDOW) for way in (False, True)}
        #: their medians. They are kept, and what follows from them: a choice has to take little of a run of 20 us
        self.medians = {False: 0.0, True: 0.0}
        # whether the times of both ways are known, and whether all threads pay by them; which way is taken
        self.measured, self.seems_to_pay, self.pays = False, True, True
        self.runs = 0
        # runs from one look at the other way to the next, and until the next one
        self.interval = self.left = FIRST_PROBE
        # runs that are left of a look
        self.looking = 0
        # whether the last run was on all threads, whether the one before it was of the same way, and when it ended
        self.way, self.follows, self.ended = True, False, 0.0
        # the seconds of those of its series, and whether it counts, however long it takes
        self.series, self.is_settled = 0.0, False
        # the seconds of all runs since the last pause, and whether those before that were few
        self.burst, self.apart = SETTLING, False

    def choose(self, now: float = 0.0) -> int:
        """Return the number of threads of the next run. now: the time at which it begins, in seconds."""
        self.runs += 1
        before, self.way = self.way, self.next_way()
        self.follows = self.way == before
        paused = now - self.ended > SETTLING
        if paused:
            self.apart, self.burst = self.burst < SETTLING, 0.0
        self.is_settled = self.follows and (self.apart or self.series >= SETTLING)
        if paused or not self.follows:
            self.series = 0.0
        self.ended = now
        return self.together if self.way else 1

    def next_way(self) -> bool:
        """Return whether the next run is on all threads."""
        if not self.measured:
            return len(self.seconds[True]) < WINDOW
        if self.looking == 0:
            if self.seems_to_pay != self.pays:
                self.pays, self.interval, self.left = self.seems_to_pay, FIRST_PROBE, FIRST_PROBE
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
        self.series, self.burst, self.ended = self.series + seconds, self.burst + seconds, self.ended + seconds
        together = threads > 1
        is_faster = self.measured and self.speaks_for(together, seconds)
        if self.runs <= UNCOUNTED or not self.follows or (together and not self.is_settled and not is_faster):
            return
        self.add(together, seconds)
        if self.looking and (not is_faster or self.seems_to_pay != self.pays):
            self.looking = 0

    def add(self, together: bool, seconds: float) -> None:
        """Add the time of a run that counts."""
        self.seconds[together].append(seconds)
        self.medians[together] = sorted(self.seconds[together])[len(self.seconds[together]) // 2]
        self.measured = self.measured or all(len(times) == WINDOW for times in self.seconds.values())
        self.seems_to_pay = self.medians[True] < PAYS * self.medians[False]

    def speaks_for(self, together: bool, seconds: float) -> bool:
        """Return whether a run of that way took so little that the way would be taken for it."""
        usual = self.medians[not together]
        return seconds < PAYS * usual if together else usual >= PAYS * seconds
