"""A short program chooses its threads by its own times; Python threads that share one run twins of it."""

import random
import sys
import threading

import numpy as np
import pytest

import foveal
from foveal import nn, ops
from foveal.pace import FIRST_PROBE, LAST_PROBE, LOOK, UNCOUNTED, Pace
from foveal.program import BRIEF_HELPERS
from foveal.system import processors
from foveal.workers import SHORT_WORK

X = np.random.default_rng(0).standard_normal((1, 16, 64, 64), np.float32)


def six_callers(serve):
    """Call serve(0) ... serve(5), each in a thread of its own, and wait for them."""
    callers = [threading.Thread(target=serve, args=(i,)) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(100)
        assert not caller.is_alive()


def chosen(pace, seconds, runs):
    """The numbers of threads of so many runs, which take `seconds[threads]`."""
    choices = []
    for _ in range(runs):
        choices.append(pace.choose())
        pace.note(choices[-1], seconds[choices[-1]])
    return choices


def test_all_ways_are_measured_then_the_faster_one_is_taken_and_the_other_is_looked_at_now_and_then():
    for seconds, best, other in (({1: 2.0, 4: 1.0}, 4, 1), ({1: 1.0, 4: 0.99}, 1, 4)):
        pace, first = Pace(4), []
        while not pace.measured:
            first += chosen(pace, seconds, 1)
        assert set(first[UNCOUNTED:]) == {1, 4}
        later = chosen(pace, seconds, 5 * LAST_PROBE)
        assert set(later) == {best, other}
        looks = [i for i, threads in enumerate(later) if threads == other]
        # the first run of a look does not count, the second one ends it
        assert looks[:2] == [FIRST_PROBE, FIRST_PROBE + 1]
        assert looks[2] - looks[1] > 2 * FIRST_PROBE
        assert looks[-1] - looks[-3] == LAST_PROBE + 2 > 100 * LOOK


def test_threads_that_wake_have_some_time_before_their_runs_count():
    """For half a millisecond after others, or after a pause, runs on two threads take four times as long as later."""
    pace, clock, series, before = Pace(2), 0.0, 0.0, 0
    later = []
    for run in range(2000):
        pause = 0.01 if run % 50 == 0 else 0.0
        later.append(pace.choose(clock + pause))
        series = 0.0 if pause or later[-1] != before else series
        seconds = 1e-4 if later[-1] == 1 else 2e-4 if series < 5e-4 else 5e-5
        pace.note(later[-1], seconds)
        clock, series, before = clock + pause + seconds, series + seconds, later[-1]
    assert later[100:].count(2) > 1800


def test_single_calls_that_find_all_threads_asleep_count():
    pace, clock, later = Pace(2), 0.0, []
    for _ in range(1000):
        clock += 0.02
        later.append(pace.choose(clock))
        pace.note(later[-1], 1e-4 if later[-1] == 1 else 2e-4)
    assert later[200:].count(2) < 60


def test_of_single_calls_the_slower_ones_count_as_the_faster_ones_do():
    """Of calls that are far apart, two of five take less on all threads than on one, the others three times as long."""
    pace, clock, later, fast = Pace(2), 0.0, [], random.Random(0)
    for _ in range(2000):
        clock += 0.01
        later.append(pace.choose(clock))
        seconds = 1e-4 if later[-1] == 1 else 6e-5 if fast.random() < 0.4 else 3e-4
        pace.note(later[-1], seconds)
        clock += seconds
    assert later.count(2) < 200


def test_a_run_that_has_to_wake_the_other_threads_does_not_count():
    """The first run on all threads after one alone takes 9, those that follow take 1."""
    pace, before, later = Pace(2), 0, []
    for _ in range(1000):
        later.append(pace.choose())
        pace.note(later[-1], 2.0 if later[-1] == 1 else 1.0 if before == 2 else 9.0)
        before = later[-1]
    assert later.count(2) > 900


def test_the_choice_follows_the_machine():
    pace = Pace(2)
    chosen(pace, {1: 2.0, 2: 1.0}, 100)
    # single runs that take longer change nothing
    for _ in range(2):
        pace.note(2, 50.0)
    assert pace.choose() == 2
    assert chosen(pace, {1: 2.5, 2: 9.0}, 24)[-8:].count(1) >= 6
    # the other processes have ended
    assert chosen(pace, {1: 2.0, 2: 1.0}, 20 * FIRST_PROBE)[-8:].count(2) >= 6


def test_a_choice_that_is_no_longer_right_is_given_up_soon():
    for before, after in (({1: 2.0, 2: 9.0}, {1: 2.0, 2: 1.0}), ({1: 2.0, 2: 1.0}, {1: 2.0, 2: 1.99})):
        pace = Pace(2)
        first = chosen(pace, before, 2000)[-1]
        # the next look comes within the longest interval
        later = chosen(pace, after, LAST_PROBE + LOOK)
        assert later[-1] != first


def network():
    nn.seed(3)
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)).eval()


def test_a_program_is_paced_where_it_is_short_and_nobody_has_set_its_threads(monkeypatch):
    monkeypatch.setattr(foveal.workers, "_threads", 3)
    short = foveal.compile(network()).program(X)
    assert short.pace is not None
    assert short.pace.together == short.threads == 3
    assert foveal.compile(network(), threads=2).program(X).pace is None
    longer = np.zeros((SHORT_WORK // (2 * 16 * 16 * 9 * 64 * 64), 16, 64, 64), np.float32)
    assert foveal.compile(network()).program(longer).pace is None


def test_a_paced_program_gives_the_same_bits_in_all_runs(monkeypatch):
    monkeypatch.setattr(foveal.workers, "_threads", 3)
    run, want = foveal.compile(network()), foveal.compile(network(), threads=1)(X).tobytes()
    program, threads = run.program(X), set()
    choose = program.pace.choose
    monkeypatch.setattr(program.pace, "choose", lambda now: threads.add(made := choose(now)) or made)
    assert all(run(X).tobytes() == want for _ in range(60))
    assert threads == {1, 3}


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_python_threads_that_share_a_program_run_twins_of_it(threads, monkeypatch):
    monkeypatch.setattr(foveal.program, "processors", lambda: 1)
    net = network()
    run, wrong = foveal.compile(net, threads), []
    images = [X + i for i in range(6)]
    want = [run(x).tobytes() for x in images]

    def serve(i):
        for n in range(60):
            if run(images[(i + n) % 6]).tobytes() != want[(i + n) % 6]:
                wrong.append((i, n))

    def together():
        six_callers(serve)
        assert not wrong

    together()
    program = run.program(X)
    assert 1 <= len(program.helpers) <= 2
    # twins prepare anew what depends on parameters that have changed
    for parameter in net.parameters():
        parameter.data = parameter.data * 2
    want = [run(x).tobytes() for x in images]
    together()


def test_a_program_that_updates_variables_has_no_twin():
    net = nn.BatchNorm2d(16)
    run = foveal.compile(net)
    run(X)
    assert run.program(X).most_helpers == 0
    assert foveal.compile(lambda x: ops.relu(ops.exp(x))).program(X).most_helpers == processors() + 1
    large = foveal.compile(ops.relu).program(np.zeros((1, 16, 512, 960), np.float32))
    assert large.most_helpers == 2


def test_a_brief_program_has_a_twin_for_every_caller_and_gives_each_its_own_bits():
    nn.seed(4)
    net = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 14 * 14, 10)).eval()
    images = [np.random.default_rng(i).standard_normal((1, 1, 28, 28), np.float32) for i in range(6)]
    want = [net(x).tobytes() for x in images]
    run, wrong = foveal.compile(net), []
    program = run.program(images[0])
    assert program.is_brief
    assert program.most_helpers == BRIEF_HELPERS
    assert not foveal.compile(network()).program(X).is_brief
    # other threads may compute wherever a thread is put aside
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def serve(i):
            wrong.extend((i, n) for n in range(100) if run(images[i]).tobytes() != want[i])

        six_callers(serve)
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert len(program.helpers) <= 6


def test_callers_that_fill_the_processors_run_alone_and_a_forked_child_has_none(monkeypatch):
    monkeypatch.setattr(foveal.program, "processors", lambda: 6)
    program = foveal.compile(network(), threads=2).program(X)
    program.turn.callers.add(1)
    others = program.least_called(), program.least_called()
    assert others == (program.helpers[0],) * 2
    for i, crowded in enumerate((False, False, True)):
        others[0].turn.callers.add(i)
        assert program.is_crowded() == crowded
    program.run(X)
    for one in (program, *program.helpers):
        one.turn.renew()
    assert not program.is_crowded()
    assert not program.turn.callers
