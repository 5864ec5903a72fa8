"""A process's first native calls from many threads, and forks while other threads compute and compile."""

import os
import subprocess
import sys

import pytest

FIRST = """
import sys, threading
import numpy as np
import foveal
from foveal import ops
x = np.arange(64, dtype=np.float32).reshape(8, 8) - 20
together, right = threading.Barrier(8), []
def call(i):
    compiled = foveal.compile(lambda x: ops.relu(x) * ops.sum(x, axes=(0,)), 1 + i % 2)
    together.wait()
    got = compiled(x)
    right.append(np.allclose(got, np.maximum(x, 0) * x.sum(0)))
threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert right == [True] * 8, right
"""

# a large parameter, all of whose elements are equal after each whole step
TRAINING = """
import os, signal, sys, threading, time, warnings
import numpy as np
import foveal
from foveal import nn, ops, optim
warnings.filterwarnings("ignore", category=DeprecationWarning)

class Scale(nn.Module):
    def __init__(self):
        self.weight = nn.Parameter(np.zeros(1 << 20))
    def forward(self, x):
        return x * self.weight

class Mean(nn.Module):
    def __call__(self, y, target):
        return ops.sum(y) * 1e-4

net = Scale()
step = foveal.compile_step(net, Mean(), optim.SGD(net.parameters(), 1.0), threads=2)
ones = np.ones((2, 1 << 20), np.float32)
small = foveal.compile(lambda x: ops.relu(x) * ops.sum(x, axes=(0,)), 2)
x = np.arange(64, dtype=np.float32).reshape(8, 8) - 20
ended = False

def train():
    while not ended:
        step(ones, np.zeros(2, np.float32))

def predict():
    while not ended:
        small(x)

def compile_new():
    size = 1
    while not ended:
        size += 1
        foveal.compile(lambda x: ops.exp(x) * 2.0)(np.ones(size, np.float32))

def draw():
    while not ended:
        nn.init.generator().standard_normal(1 << 18, np.float32)

def check():
    nn.Linear(4, 3)
    values = net.state_dict()["weight"]
    assert (values == values[0]).all(), "halves of two steps"
    assert np.allclose(small(x), np.maximum(x, 0) * x.sum(0))
    assert (foveal.compile(ops.relu, 2)(-x[:3]) == np.maximum(-x[:3], 0)).all()
    net(ones)
    before = net.state_dict()["weight"][0]
    step(ones, np.zeros(2, np.float32))
    assert net.state_dict()["weight"][0] < before

step(ones, np.zeros(2, np.float32)), small(x)
threads = [threading.Thread(target=work) for work in (train, predict, compile_new, draw)]
for thread in threads:
    thread.start()
"""

FORKS = """
for _ in range(8):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        status = 1
        try:
            check()
            # a child of a child
            grandchild = os.fork()
            if grandchild == 0:
                check()
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
ended = True
for thread in threads:
    thread.join(60)
    assert not thread.is_alive()
check()
"""

POOL = """
import multiprocessing

def classify(i):
    net = nn.Linear(4, 3)
    return float(np.asarray(net(np.full((2, 4), i, np.float32))).shape[1])

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(classify, range(6)).get(60) == [3.0] * 6
ended = True
"""

# a signal handler forks, and runs a program, while the main thread runs one
IN_A_HANDLER = """
import os, signal, sys, threading, time, warnings
import numpy as np
import foveal
from foveal import ops
from foveal.errors import StateError
warnings.filterwarnings("ignore", category=DeprecationWarning)
small = foveal.compile(lambda x: ops.relu(x) * ops.sum(x, axes=(0,)), 2)
x = np.arange(64, dtype=np.float32).reshape(8, 8) - 20
want = np.maximum(x, 0) * x.sum(0)
small(x)
calls, refused, children = 0, 0, []
def handle(number, frame):
    global calls, refused
    calls += 1
    if calls == 20:
        # here, as where forks take longer than the interval nothing else runs
        signal.setitimer(signal.ITIMER_REAL, 0)
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os._exit(0)
    children.append(child)
    try:
        small(x)
    except StateError:
        refused += 1
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
while calls < 20:
    assert np.allclose(small(x), want)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
assert np.allclose(small(x), want)
"""

# another thread draws (holds the generator's lock) when the process forks; NumPy 2.5 takes the lock to copy a generator
WHILE_DRAWING = """
import copy, os, signal, threading, time, warnings
from foveal import nn
warnings.filterwarnings("ignore", category=DeprecationWarning)
drawing, drawn = threading.Event(), False

def draw():
    global drawn
    with nn.init.generator().bit_generator.lock:
        drawing.set()
        time.sleep(0.5)
        drawn = True

thread = threading.Thread(target=draw)
thread.start()
drawing.wait()
child = os.fork()
assert drawn, "the process has forked in the middle of a draw"
if child == 0:
    signal.alarm(20)
    first = copy.deepcopy(nn.init.generator()).uniform(size=3)
    assert (nn.init.generator().uniform(size=3) == first).all()
    nn.seed(1)
    nn.Linear(4, 3)
    os._exit(0)
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
nn.seed(2)
nn.Linear(4, 3)
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run(script):
    """The exit status and the errors of a script."""
    ended = subprocess.run([sys.executable, "-c", script], timeout=100, check=False, stderr=subprocess.PIPE, text=True)
    return ended.returncode, ended.stderr


def test_the_first_native_calls_of_a_process_may_come_from_many_threads_at_once():
    for _ in range(2):
        assert run(FIRST) == (0, "")


@pytest.mark.long
@forks
def test_a_child_computes_while_threads_of_its_parent_train_predict_and_compile():
    assert run(TRAINING + FORKS) == (0, "")


@forks
def test_a_fork_waits_until_no_thread_draws_from_the_generator():
    assert run(WHILE_DRAWING) == (0, "")


@forks
def test_a_pool_of_forked_processes_works_while_threads_train():
    assert run(TRAINING + POOL) == (0, "")


@forks
def test_a_signal_handler_may_fork_and_does_not_spoil_a_run():
    assert run(IN_A_HANDLER) == (0, "")
