"""Compiling processes: the same code as from one, whatever becomes of them, and none that stays."""

import errno
import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.progress import Progress

import foveal
from foveal import ops
from foveal.cli import main
from foveal.errors import FovealError
from foveal.kernel import cache, pool, progress, runtime, target
from foveal.kernel import compile as kernels
from foveal.ops.op import OPS

x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)


@pytest.fixture(autouse=True)
def two_processes(tmp_path, monkeypatch):
    """Two processes even for two kernels, an empty cache, and no kernel that was compiled or said before."""
    # the loop that runs kernels is in the cache as well
    runtime.run()
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOVEAL_JOBS", "2")
    monkeypatch.setattr(pool, "FEW", 2)
    monkeypatch.setattr(pool, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(kernels, "_loaded", {})
    monkeypatch.setattr(pool, "_said", set())
    yield
    pool.end_idle()


def none_works():
    """Return whether all compiling processes that there are wait for a next compilation."""
    idle = pool._running.idle
    return pool._running.processes == {worker.process for worker in (idle[0].workers.values() if idle else ())}


def rows(x):
    """Three kernels."""
    return ops.sum(ops.exp(x), axes=(0,)), ops.max(x, axes=(1,)), ops.sum(x * 3.0, axes=(1,)), ops.tanh(x)


def program():
    kernels._loaded.clear()
    return foveal.compile(rows, threads=1).program(x)


def check(program):
    wanted = np.exp(x).sum(0), x.max(1), (x * 3).sum(1), np.tanh(x)
    for got, want in zip(program.run(x), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert none_works()


@pytest.fixture
def made_here(monkeypatch):
    """Names of the kernels that this process compiles itself."""
    made = []
    make = kernels.compile_kernel
    monkeypatch.setattr(
        kernels, "compile_kernel", lambda kernel, *more: made.append(kernel.name) or make(kernel, *more)
    )
    return made


def test_processes_compile_what_one_compiles_to_the_byte(made_here, tmp_path, monkeypatch, capfd):
    drawn = random.getstate()
    with target.assume(target.SSE):
        check(program())
    assert not made_here
    # the user's random numbers do not depend on what is in the cache
    assert random.getstate() == drawn
    several = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    assert cache.clear() == len(several) == 3
    monkeypatch.setenv("FOVEAL_JOBS", "1")
    with target.assume(target.SSE):
        check(program())
    assert len(made_here) == len(several)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == several
    assert capfd.readouterr() == ("", "")


def test_processes_stay_for_the_next_compilation_but_not_for_long(made_here, monkeypatch):
    monkeypatch.setattr(pool, "FEW", 100)
    monkeypatch.setattr(pool, "ALONE_SECONDS", 1e9)
    pool.prepare()
    prepared = set(pool._running.processes)
    assert len(prepared) == 2
    # there are some already
    pool.prepare()
    assert pool._running.processes == prepared
    for _ in range(2):
        check(program())
        assert pool._running.processes == prepared
        cache.clear()
    assert not made_here
    # one that has ended meanwhile is not used again, which is nothing to mention
    next(iter(prepared)).kill()
    next(iter(prepared)).wait()
    check(program())
    assert len(pool._running.processes & prepared) == 1
    pool.end_idle()
    assert all(process.returncode is not None for process in prepared)
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.0)
    pool.prepare()
    limit = time.monotonic() + 60
    while pool._running.processes:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_nothing_is_prepared_where_kernels_are_compiled_alone(monkeypatch, capsys):
    monkeypatch.setattr(pool, "obstacle", lambda: "no reason")
    pool.prepare()
    monkeypatch.undo()
    monkeypatch.setenv("FOVEAL_JOBS", "1")
    pool.prepare()
    assert (pool._running.processes, capsys.readouterr()) == (set(), ("", ""))


def test_a_lower_number_counts_for_processes_that_were_kept(monkeypatch):
    monkeypatch.setenv("FOVEAL_JOBS", "4")
    pool.prepare()
    monkeypatch.setenv("FOVEAL_JOBS", "2")
    check(program())
    assert len(pool._running.processes) == 2


# a program without standard streams, and one that closes what it does not know, as daemons do
CLOSED = """
import os, sys
import foveal
from foveal import ops
from foveal.kernel import pool
os.close(0)
os.close(1)
pool.FEW = 2
pool.prepare()
assert len(pool._running.processes) == 2
try:
    os.write(1, b"x" * 100)
except OSError:
    sys.stderr.write("kept apart,")
if {closes}:
    os.closerange(3, 256)
    if (child := os.fork()) == 0:
        os._exit(len(pool._running.processes))
    assert os.waitpid(child, 0)[1] == 0
foveal.compile(lambda x: (ops.sum(ops.exp(x), axes=(0,)), ops.max(x, axes=(1,))), threads=1)([[1.0, 2.0]])
sys.stderr.write("done")
"""


@pytest.mark.parametrize("closes", [False, True])
def test_pipes_are_neither_printed_to_nor_missed_when_descriptors_are_closed(closes):
    ran = subprocess.run([sys.executable, "-c", CLOSED.format(closes=closes)], stderr=subprocess.PIPE, timeout=60)
    said = ran.stderr.decode()
    assert (ran.returncode, said.startswith("kept apart,"), said.endswith("done")) == (0, True, True)
    assert not {"Traceback", "Exception ignored"} & set(re.findall("Traceback|Exception ignored", said))


STEP = """
import numpy as np
import foveal
from foveal import nn, optim
from foveal.kernel import pool
net = nn.Linear(2, 2)
foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))
print(len(pool._running.processes))
net(np.ones((1, 2), np.float32))
"""


def test_a_step_starts_processes_where_the_cache_has_nothing_of_these_sources():
    printed = [subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True) for _ in range(2)]
    assert [(ran.stdout, ran.stderr) for ran in printed] == [("2\n", ""), ("0\n", "")]


def test_objects_come_back_where_nothing_can_be_kept(made_here, monkeypatch):
    monkeypatch.setenv("FOVEAL_CACHE", os.devnull)
    check(program())
    assert not made_here


def test_a_full_disk_stops_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    check(program())
    assert not list((tmp_path / "cache").iterdir())


def kill_at(moment, monkeypatch):
    """Have every compiling process killed when it is sent its kernel of this number."""
    send, count = pool.Worker.send, []

    def send_and_kill(worker, task):
        send(worker, task)
        count.append(task)
        if len(count) == moment:
            worker.process.kill()

    monkeypatch.setattr(pool.Worker, "send", send_and_kill)


@pytest.mark.parametrize("moment", [1, 3])
def test_the_kernel_of_a_process_that_is_killed_is_compiled_by_others(moment, made_here, monkeypatch, capsys):
    kill_at(moment, monkeypatch)
    check(program())
    assert made_here
    said = capsys.readouterr().err
    assert said == "-- a compiling process is lost, its work is done by the others: it ended with signal 9\n"
    cache.clear()
    check(program())
    assert capsys.readouterr().err == ""


IN_THE_WAY = {
    "embedded": ("sys.executable", None, "is not known to be a Python interpreter"),
    "another program": ("sys.executable", "/usr/bin/editor", "'/usr/bin/editor', is not known"),
    "gone": ("sys.executable", "/nowhere/python3", "0 of 1 compiling processes were started: "),
    "a zip file": ("foveal.children.PACKAGE", Path("/nowhere.zip/foveal"), "is no folder"),
    "changed": ("foveal.kernel.pool.imported_digest", lambda: "other", "the files of Foveal have changed"),
}


@pytest.mark.parametrize(("name", "value", "reason"), IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_where_no_process_can_help_one_compiles_and_says_so(name, value, reason, made_here, monkeypatch, capsys):
    monkeypatch.setattr(name, value)
    check(program())
    assert len(made_here) == 3
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


def test_a_process_that_never_answers_is_not_waited_for(made_here, tmp_path, monkeypatch):
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 100\n")
    silent.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(silent))
    monkeypatch.setattr(pool, "PATIENCE_SECONDS", 0.1)
    check(program())
    assert len(made_here) == 3


def kernel(body, **static):
    spec = kernels.ArraySpec((9,), (1,))
    return kernels.Kernel(body, (spec, spec), tuple(static.items()))


def test_what_cannot_be_sent_is_compiled_here(made_here):
    def mine(y, x):
        y[0] = x[0]

    sent = [kernel(OPS[name].kernel) for name in ("relu", "exp", "tanh")]
    assert len(kernels.native([*sent, kernel(mine)]).addresses) == 4
    assert made_here == ["mine"]


def test_an_error_of_a_kernel_is_raised_here():
    wrong = [kernel(OPS[name].kernel, unknown=1) for name in ("relu", "exp", "tanh")]
    with pytest.raises(TypeError, match="unknown"):
        kernels.native(wrong)
    assert none_works()


def test_two_threads_compile_at_once():
    done = []
    threads = [threading.Thread(target=lambda: done.append(foveal.compile(rows, threads=1)(x))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [a.tolist() for a in done[0]] == [a.tolist() for a in done[1]]
    assert none_works()


def test_the_number_of_processes(monkeypatch):
    assert pool.jobs() == 2
    monkeypatch.setenv("FOVEAL_JOBS", "")
    assert 1 <= pool.jobs() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(pool, "total_memory", lambda: 1e6)
    assert pool.jobs() == 1
    for wrong in ("0", "-1", "two", "1000", "9" * 5000, "²"):
        monkeypatch.setenv("FOVEAL_JOBS", wrong)
        with pytest.raises(FovealError, match=r"FOVEAL_JOBS is .*: give a number of compiling processes from 1 to"):
            pool.jobs()
    ended = CliRunner().invoke(main, ["doctor"])
    assert (ended.exit_code, "FOVEAL_JOBS is '²'" in ended.output) == (2, True)


# a script without a guard, whose processes say that they are there; it compiles until it is ended
SCRIPT = """
import foveal.ops
from foveal.kernel import pool
from foveal.kernel.compile import ArraySpec, Kernel, native
pool.FEW = 2
print("begun", flush=True)
start = pool.Worker.__init__
def started(self, *arguments):
    start(self, *arguments)
    print(self.process.pid, flush=True)
pool.Worker.__init__ = started
pool.Worker.send = lambda worker, task: None
native([Kernel(foveal.ops.OPS["exp"].kernel, (ArraySpec((n,), (1,)),) * 2) for n in range(1, 9)])
"""


def ended(process):
    """Return whether there is no such process any more."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")")[-1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_a_process_whose_parent_does_not_read_ends_without_a_word():
    code = "from foveal.kernel.worker import serve; serve()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (0, b"")
    process.stdin.close()
    process.stderr.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_when_the_program_is_ended_while_others_compile(number, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    others = [int(process.stdout.readline()) for _ in range(2)]
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest) == (-number, "")
    assert number == signal.SIGKILL or errors.splitlines()[-1] == "KeyboardInterrupt"
    limit = time.monotonic() + 60
    while not all(map(ended, others)):
        assert time.monotonic() < limit
        time.sleep(0.01)
    # what was claimed by a program that was killed is forgotten after a while
    left = list((tmp_path / "cache").glob("*"))
    assert left == [] if number == signal.SIGINT else all(path.name.endswith(".claim.tmp") for path in left)


def test_what_another_program_compiles_comes_last(made_here, tmp_path, monkeypatch):
    monkeypatch.setenv("FOVEAL_JOBS", "1")
    names = [kernels.key(kernel(OPS[name].kernel), target.host()) for name in ("exp", "relu", "tanh")]
    assert cache.claim(names[1])
    assert cache.claim(names[2])
    claim = tmp_path / "cache" / f".{names[2]}.o.claim.tmp"
    os.utime(claim, (1, 1))
    made = []
    monkeypatch.setattr(cache, "write", lambda name, body: made.append(name))
    kernels.native([kernel(OPS[name].kernel) for name in ("exp", "relu", "tanh")])
    assert (set(made), made[-1]) == (set(names), names[1])
    # its own claims are gone, also the one that it took over
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f".{names[1]}.o.claim.tmp"]
    # what is compiled elsewhere in the meantime is not compiled here
    kernels._loaded.clear()
    monkeypatch.undo()
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    assert not cache.claim(names[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_lets_go_of_the_pipes():
    results = pool.SimpleQueue()
    worker = pool.Worker(0, results)
    child = os.fork()
    if child == 0:
        os._exit(0 if worker.inbox.closed and not pool._running.processes else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # the digest, which a process that is told to end does not always send
    assert results.get(timeout=60)[1] is not None
    worker.inbox.close()
    # its end, which nothing but the closed pipe has told it
    assert results.get(timeout=60)[1] is None
    worker.end()
    assert worker.process.returncode == 0


NOISY = """
import os, sys
from foveal.kernel import worker
def compile_noisily(request):
    print("out")
    os.write(1, b"descriptor\\n")
    print("err", file=sys.stderr)
    return request
worker.compile_request = compile_noisily
worker.serve()
"""


def test_what_is_printed_meanwhile_goes_to_standard_error():
    process = subprocess.Popen(
        [sys.executable, "-c", NOISY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    pool.send(process.stdin.fileno(), b"kernel")
    replies = [pool.receive(process.stdout.fileno()) for _ in range(2)]
    assert (len(replies[0]), replies[1]) == (64, b"kernel")
    assert process.communicate(timeout=60) == (b"", b"out\ndescriptor\nerr\n")


class Terminal(io.StringIO):
    """A terminal, as programs see it."""

    def isatty(self):
        return True


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_long_compilation_says_on_a_terminal_how_far_it_is(count, monkeypatch):
    monkeypatch.setenv("FOVEAL_JOBS", count)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    check(program())
    # carriage returns alone, each line over the one before, and blanks over the last one
    first, *lines, last, end = sys.stderr.getvalue().split("\r")
    assert (first, last, end) == ("", " " * len(lines[-1]), "")
    told = [re.fullmatch(r"compiling: (\d) of 3 kernels, (kept in .*)", line.rstrip()) for line in lines]
    done = [int(match[1]) for match in told]
    assert {match[2] for match in told} == {progress.kept()[: len(told[0][2])]}
    assert done == sorted(done)
    assert done[-1] == 3
    sys.stderr = Terminal()
    check(program())
    assert sys.stderr.getvalue() == ""


def test_only_terminals_and_notebooks_are_told_of_a_compilation(monkeypatch, capsys):
    monkeypatch.setenv("FOVEAL_JOBS", "1")
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    check(program())
    assert capsys.readouterr() == ("", "")
    # the stream that a notebook has, and the module that shows outputs of cells
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    shown = []

    class Output:
        def update(self, content, raw):
            shown.append(content["text/plain"])

    def display(content, raw, display_id):
        Output().update(content, raw)
        return Output()

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
        patch.setattr(progress, "NOTEBOOK_SECONDS", 0.0)
        patch.setattr(sys, "stderr", notebook)
        cache.clear()
        check(program())
    # live lines, each in the place of the one before, then one that stays
    *lines, last = shown
    assert lines
    assert all(line.startswith("compiling: ") for line in lines)
    assert re.fullmatch(rf"3 kernels compiled in \d+\.\d s, {re.escape(progress.kept())}", last)
    assert notebook.getvalue() == ""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 1e9)
    cache.clear()
    check(program())
    assert capsys.readouterr() == ("", "")
    assert not rich_terminal()


def test_where_kernels_are_kept_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for place, words in (
        ("/dev/null", "kept nowhere, as FOVEAL_CACHE says"),
        (str(tmp_path / "kernels"), "kept in ~/kernels"),
        (str(tmp_path / "file" / "kernels"), "not kept, as "),
    ):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("FOVEAL_CACHE", place)
        assert progress.kept().startswith(words)


def rich_terminal():
    """Return what is seen of a terminal while a live display of rich runs."""
    with Progress(console=Console(file=Terminal(), force_terminal=True)) as display:
        display.add_task("")
        return progress.is_rewritable()
