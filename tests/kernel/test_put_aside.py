"""Threads that the system puts aside at any moment, or that never come: nobody waits for ever, and no bit changes."""

import sys

import forked
import pytest

BEGIN = """
import ctypes, random, signal, threading, time
import numpy as np
from llvmlite import binding as llvm
import foveal
from foveal import nn, ops, optim
from foveal.kernel import llvm_thread
from foveal.kernel.target import host, machine
from foveal.workers import Workers, workers

X = np.random.default_rng(0).standard_normal((8, 3, 12, 12), np.float32)
Y = np.arange(8, dtype=np.int32) % 10

def losses(threads, count):
    nn.seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10),
    )
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.1), threads=threads)
    lost = [step(X, Y).loss for _ in range(count)]
    return lost, [value.tobytes() for value in net.state_dict().values()]

def native_threads():
    return [thread.ident for thread in threading.enumerate() if thread.name == "foveal"]
"""

# what a thread does that gets the signal, wherever it is: nothing for 3 ms
HANDLER = '''
HANDLER = f"""
target triple = "{host().triple}"
declare i32 @usleep(i32)
define void @put_aside(i32 %signal) {{
  call i32 @usleep(i32 3000)
  ret void
}}
"""

def load():
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(HANDLER), machine(host()))
    engine.finalize_object()
    return engine, engine.get_function_address("put_aside")

engine, handler = llvm_thread.run(load)
install = ctypes.CDLL(None).signal
install.restype, install.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
install(signal.SIGUSR1, handler)

def put_aside(thread):
    signal.pthread_kill(thread, signal.SIGUSR1)
'''

AT_ANY_MOMENT = """
want = losses(1, 40)
losses(4, 1)
rng, ended, aside = random.Random(3), False, 0
choice = [threading.main_thread().ident, *native_threads()]
assert len(choice) == 4

def disturb():
    global aside
    while not ended:
        put_aside(rng.choice(choice))
        aside += 1
        time.sleep(rng.random() * 0.002)

disturber = threading.Thread(target=disturb)
disturber.start()
try:
    for threads in (2, 4):
        assert losses(threads, 40) == want, threads
finally:
    ended = True
    disturber.join()
assert aside > 20, aside
"""

# the threads are put aside for 3 ms
BETWEEN_RUNS = """
run = foveal.compile(lambda x: ops.relu(x) * ops.sum(x, axes=(0,)), 2)
want, seconds = run(X).tobytes(), []
for _ in range(30):
    for thread in native_threads():
        put_aside(thread)
    time.sleep(0.0005)
    before = time.perf_counter()
    got = run(X)
    seconds.append(time.perf_counter() - before)
    assert got.tobytes() == want
assert min(seconds) < 0.0015, seconds
"""

NONE_COMES = """
want = losses(1, 3)
Workers.grow = lambda self, threads: None
assert losses(5, 3) == want
assert not workers().wake
"""

# another caller has the threads
TAKEN = """
want = losses(1, 3)
losses(2, 1)
workers().block[8] = 1
run, together = Workers.run, []
Workers.run = lambda *arguments: together.append(run(*arguments))
assert losses(2, 3) == want
assert together == [False] * 3, together
"""

# as on systems without futex: threads sleep in Python
WITHOUT_FUTEX = """
from foveal.kernel import runtime
runtime.sleeps = lambda target: False
want = losses(1, 5)
for threads in (2, 5):
    assert losses(threads, 5) == want
time.sleep(0.05)
before = time.process_time()
time.sleep(0.3)
assert time.process_time() - before < 0.03
assert workers().sleeps_in_python
assert losses(3, 5) == want
"""

# the worker has gone to sleep in Python after a caller looked for sleepers, and before it told of its run
ASLEEP_UNSEEN = """
from foveal.kernel import runtime
runtime.sleeps = lambda target: False
losses(2, 1)
time.sleep(0.05)
assert workers().boxes[1, 1] == 1
Workers.wake_sleepers = lambda self, threads: None
losses(2, 1)
assert workers().boxes[1, 1] == 1
"""

# Who wakes others may be put aside before it does, until these are about to sleep for the end of a later section. So it
# must not take them for awake: each thread counts itself.
ABOUT_TO_SLEEP = """
def wait_for(count):
    deadline = time.monotonic() + 20
    while workers().block[16] != count:
        assert time.monotonic() < deadline, workers().block[16]
        time.sleep(0.01)

want = losses(1, 5)
losses(3, 1)
wait_for(0)
workers().block[16] = 7
assert losses(3, 5) == want
wait_for(7)
"""


@pytest.fixture
def run(tmp_path):
    """Gives the exit status and the errors of a script."""
    return lambda script: forked.run_code(BEGIN + script, tmp_path, timeout=100)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a signal to a single thread, while it sleeps")
@pytest.mark.parametrize("script", [AT_ANY_MOMENT, BETWEEN_RUNS])
def test_threads_that_are_put_aside_change_no_bit_and_are_waited_for_only_while_they_have_work(script, run):
    assert run(HANDLER + script) == (0, "")


def test_a_thread_that_is_about_to_sleep_is_counted_until_it_is_awake(run):
    assert run(ABOUT_TO_SLEEP) == (0, "")


@pytest.mark.parametrize("script", [WITHOUT_FUTEX, ASLEEP_UNSEEN])
def test_threads_sleep_in_python_where_the_system_has_no_futex(script, run):
    assert run(script) == (0, "")


@pytest.mark.parametrize("script", [NONE_COMES, TAKEN])
def test_the_caller_does_all_where_no_thread_comes_or_another_caller_has_them(script, run):
    assert run(script) == (0, "")
