"""Compiled programs: made once though many threads ask, a bounded number of them, freed with their last user."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.kernel import llvm_thread
from foveal.programs import LIMIT, Programs

X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def in_threads(count, function):
    """What the function returned, or raised, in each of so many threads that call it at once with their index."""
    together = threading.Barrier(count)
    found = [None] * count

    def call(i):
        together.wait()
        try:
            found[i] = function(i)
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=call, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_threads_that_call_one_new_function_trace_it_once():
    traced = []

    def function(x):
        traced.append(threading.get_ident())
        return ops.relu(x) * 2.0

    compiled = foveal.compile(function)
    for got in in_threads(8, lambda i: compiled(X + i) - (X + i).clip(0) * 2):
        assert (got == 0).all()
    assert len(traced) == 1


def test_threads_that_call_one_new_model_or_step_trace_it_once():
    class Counted(nn.Linear):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return super().forward(x)

    nn.seed(0)
    net = Counted(4, 2)
    got = in_threads(8, lambda i: net(X))
    assert Counted.calls == 1
    assert all((y == got[0]).all() for y in got)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.1))
    in_threads(8, lambda i: step(X, np.array([0, 1, 1])))
    assert Counted.calls == 2
    assert step.steps == 8


def test_steps_of_many_threads_are_whole_steps():
    def trained(run):
        nn.seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), 0.01))
        run(lambda: step(X, np.array([0, 1, 1])))
        return b"".join(value.tobytes() for value in net.state_dict().values())

    def alone(step):
        for _ in range(120):
            step()

    def together(step):
        in_threads(4, lambda i: [step() for _ in range(30)])

    assert trained(alone) == trained(together)


def test_where_making_fails_the_next_one_tries():
    calls = []

    def make():
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("no")
        return "made"

    programs = Programs()
    got = in_threads(6, lambda i: programs.find("key", make))
    assert sorted(map(str, got)) == ["made"] * 4 + ["no"] * 2
    assert len(calls) == 3
    assert not programs.turns


def test_other_keys_do_not_wait():
    programs, entered, go_on = Programs(), threading.Event(), threading.Event()

    def slow():
        entered.set()
        assert go_on.wait(60)
        return "slow"

    thread = threading.Thread(target=programs.find, args=("slow", slow))
    thread.start()
    assert entered.wait(60)
    assert programs.find("fast", lambda: "fast") == "fast"
    go_on.set()
    thread.join(60)
    assert programs.find("slow", lambda: "again") == "slow"


def test_the_one_used_least_recently_makes_room():
    programs = Programs(limit=3)
    for key in "abca":
        programs.find(key, lambda key=key: key.upper())
    programs.find("d", lambda: "D")
    assert len(programs) == 3
    assert [programs.find(key, lambda: "made again") for key in "acdb"] == ["A", "C", "D", "made again"]


def test_what_was_asked_for_last_is_let_go_when_it_makes_room():
    programs = Programs(limit=1)
    for _ in range(2):
        first = weakref.ref(programs.find("a", lambda: nn.Identity()))
    assert programs.find("b", lambda: 2) == 2
    gc.collect()
    assert first() is None
    assert programs.find("a", lambda: 3) == 3


def test_what_makes_room_is_said_at_debug_1(capfd):
    programs = Programs(limit=1)
    with foveal.debug.at(1):
        programs.find("a", lambda: 1), programs.find("b", lambda: 2)
    assert "used least recently of more than 1" in capfd.readouterr().err


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_empty_and_works(again):
    programs = Programs()
    programs.find("a", lambda: threading.Lock())
    other = again(programs)
    assert (len(other), other.limit) == (0, LIMIT)
    assert other.find("a", lambda: 3) == 3


def engines():
    """How many blocks of machine code programs hold, when those that nobody refers to are gone."""
    gc.collect()
    return llvm_thread.kept()


def test_programs_are_bounded_and_their_code_goes_with_them():
    before = engines()
    relu = foveal.compile(ops.relu)
    assert relu.programs.limit == LIMIT
    relu.programs.limit = 5
    for size in range(1, 12):
        assert (relu(np.full(size, -1, np.float32)) == 0).all()
    assert len(relu.programs) == 5
    assert before < engines() <= before + 5
    del relu
    assert engines() == before


def test_code_that_another_program_uses_stays():
    kept = foveal.compile(lambda x: ops.exp(x) * 3.25)
    dropped = foveal.compile(lambda x: ops.exp(x) * 3.25)
    assert dropped(X).tobytes() == kept(X).tobytes()
    del dropped
    held = engines()
    np.testing.assert_allclose(kept(X), np.exp(X) * 3.25, rtol=1e-5)
    del kept
    assert engines() == held - 1
