"""Ctrl-C while LLVM works, and a process that is killed: no crash, no hang, and what comes after is right."""

import random
import signal
import subprocess
import sys
import time

import pytest

# a cold compilation of three kernels: none that was compiled before is found
BEGIN = """
import os, random, signal, sys, threading, time
import numpy as np
import foveal
from foveal import ops
from foveal.kernel import cache
from foveal.kernel import compile as kernels
x = np.arange(64, dtype=np.float32).reshape(8, 8) - 20
want = np.maximum(x, 0) * x.sum(0)
cache.read = lambda key: None

def compute():
    kernels._loaded.clear()
    got = foveal.compile(lambda x: ops.relu(x) * ops.sum(x, axes=(0,)), 2)(x)
    np.testing.assert_allclose(got, want, rtol=1e-5)
"""

# the interruption falls between the free of a string and llvmlite's note of it
IN_CLOSE = """
from llvmlite.binding import ffi
free, interrupted = ffi.lib.LLVMPY_DisposeString, 0
def freed_then_interrupted(pointer):
    global interrupted
    free(pointer)
    if interrupted < 4:
        interrupted += 1
        signal.raise_signal(signal.SIGINT)
ffi.lib._fntab["LLVMPY_DisposeString"] = freed_then_interrupted
caught = 0
while True:
    try:
        compute()
        break
    except KeyboardInterrupt:
        caught += 1
assert interrupted == 4 and caught >= 1, (interrupted, caught)
"""

AT_RANDOM = """
random.seed(int(sys.argv[1]))
started = time.perf_counter()
compute()
cold = time.perf_counter() - started
def interrupt(delay):
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGINT)
caught = 0
while caught < int(sys.argv[2]):
    try:
        thread = threading.Thread(target=interrupt, args=(random.random() * cold,))
        thread.start()
        while True:
            compute()
    except KeyboardInterrupt:
        caught += 1
compute()
"""

# a second and a third interruption while the first one is being handled
AT_ONCE = """
def interrupt():
    for _ in range(200):
        time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)
caught, ended = 0, False
# imports are done: an interruption is lost where Python's own callbacks run then
compute()
thread = threading.Thread(target=interrupt)
def handle(number, frame):
    global caught
    caught += 1
    if not ended:
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, handle)
while not ended:
    try:
        if thread.ident is None:
            thread.start()
        while thread.is_alive():
            compute()
        ended = True
    except KeyboardInterrupt:
        continue
compute()
assert caught > 10, caught
"""

UNTIL_INTERRUPTED = """
print("begun", flush=True)
while True:
    compute()
"""


def run(script, *arguments):
    """The exit status and the errors of a script."""
    ended = subprocess.run(
        [sys.executable, "-c", BEGIN + script, *map(str, arguments)],
        timeout=100,
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("script", [IN_CLOSE, AT_ONCE])
def test_an_interruption_never_falls_inside_of_llvmlite(script):
    status, errors = run(script)
    assert status == 0, errors


def test_compilation_goes_on_after_interruptions_at_random_moments():
    status, errors = run(AT_RANDOM, 0, 20)
    assert status == 0, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_process_ends_at_once_and_the_next_one_works(number, tmp_path, monkeypatch):
    rng = random.Random(number)
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + UNTIL_INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(rng.random() * 0.5)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -number, errors
        assert number == signal.SIGKILL or errors.splitlines()[-1] == "KeyboardInterrupt", errors
    assert run("import importlib\nimportlib.reload(cache)\ncompute()") == (0, "")


# who calls LLVM, in a process that compiles, loads, lists, fails, frees and ends
CALLERS = """
from llvmlite.binding import ffi
callers = set()
call = ffi._lib_fn_wrapper.__call__
def noted(self, *arguments, **more):
    callers.add(threading.current_thread().name)
    return call(self, *arguments, **more)
ffi._lib_fn_wrapper.__call__ = noted

import gc
from click.testing import CliRunner
from foveal.cli import main
from foveal.kernel import llvm_thread, target
compute(), compute()
with foveal.debug.at(6):
    compiled = foveal.compile(lambda x: ops.exp(x))
    compiled(x)
kernels.assembly(compiled.program(x).calls[0].kernel, target.NEON)
assert CliRunner().invoke(main, ["doctor"]).exit_code == 0
try:
    llvm_thread.run(lambda: kernels.emit_object("define void @f() { no }", target.host(), False, 0))
    raise AssertionError("that was no IR")
except RuntimeError as error:
    kept = error
del compiled
gc.collect()
llvm_thread.kept()
print(callers)
assert callers == {"foveal LLVM"}
"""


def test_one_thread_alone_uses_llvm(tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    status, errors = run(CALLERS)
    assert status == 0, errors
