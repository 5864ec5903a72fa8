"""Native threads: awake between launches, asleep when there is nothing to do, and never left behind."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import foveal
from foveal import ops

X = np.arange(64, dtype=np.float32).reshape(8, 8) - 20


def program(threads):
    """max(x, 0) times its sums over rows: three calls or so, with barriers between."""
    return foveal.compile(lambda x: ops.relu(x) * ops.sum(x, axes=(0,)), threads).program(X)


def check(made, x):
    np.testing.assert_allclose(made.run(x)[0], np.maximum(x, 0) * x.sum(0), rtol=1e-5)


def test_threads_that_have_nothing_to_do_use_no_processor():
    made = program(2)
    for _ in range(10):
        check(made, X)
    time.sleep(0.02)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.03
    check(made, X + 1)


def test_python_threads_launch_programs_of_different_thread_counts():
    programs = [program(threads) for threads in (1, 2, 3, 5)]
    wrong = []

    def launch(seed):
        try:
            for i in range(200):
                check(programs[(seed + i) % 4], X + seed)
        except BaseException as error:
            wrong.append(error)
            raise

    callers = [threading.Thread(target=launch, args=(seed,)) for seed in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    made = program(2)
    check(made, X)
    if (child := os.fork()) == 0:
        try:
            check(made, X + 2)
            os._exit(0)
        finally:
            os._exit(1)
    for i in range(20):
        check(made, X + i)
    assert os.waitpid(child, 0)[1] == 0


BEGIN = """
import signal, sys, threading, time
import numpy as np
import foveal
from foveal import ops
made = foveal.compile(lambda x: ops.relu(x) * ops.sum(x, axes=(0,)), 2).program(np.ones((8, 8), "f4"))
x = np.ones((8, 8), "f4")
"""

EXIT = "made.run(x)\n"

INTERRUPTED = """
def interrupt():
    for i in range(300):
        time.sleep(0.001 + i % 7 * 1e-4)  # now while the other thread watches, now while it sleeps
        signal.raise_signal(signal.SIGINT)
    global ended
    ended = True
def once(number, frame):  # not while the one before is being handled
    global launching
    if launching:
        launching = False
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, once)
ended, launching, caught, launched = False, False, 0, 0
thread = threading.Thread(target=interrupt)
thread.start()
while not ended:
    try:
        launching = True
        while not ended:
            made.launch()
            launched += 1
            if launched % 50 == 0:
                time.sleep(0.0005)
    except KeyboardInterrupt:
        caught += 1
launching = False
thread.join()
assert caught > 20, caught
assert (made.run(x)[0] == 8).all()
"""


@pytest.mark.parametrize("rest", [EXIT, INTERRUPTED])
def test_a_process_ends_whatever_its_threads_do(rest):
    for _ in range(3 if rest == EXIT else 1):
        ended = subprocess.run([sys.executable, "-c", BEGIN + rest], timeout=60, check=False)
        assert ended.returncode == 0
