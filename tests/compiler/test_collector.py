"""The garbage collector is paused while programs are made, and is afterwards what it was."""

import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import foveal
from foveal import collector, ops
from foveal.ops.op import Tensor


@pytest.fixture(autouse=True)
def turned_on() -> Iterator[None]:
    """Every test begins with the collector on, and finds no pause left behind."""
    gc.enable()
    yield
    left, was_on = list(collector._pauses), gc.isenabled()
    collector._pauses.clear()
    gc.enable()
    assert not left
    assert was_on


def test_it_is_off_while_a_function_is_traced_and_on_afterwards() -> None:
    seen: list[bool] = []

    def function(x: Tensor) -> Tensor:
        seen.append(gc.isenabled())
        return ops.exp(x)

    foveal.compile(function)(np.zeros(3, np.float32))
    assert seen == [False]
    assert gc.isenabled()


def test_only_the_last_pause_that_ends_turns_it_on() -> None:
    with collector.paused():
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_pauses_of_threads_may_overlap() -> None:
    begun, ended = threading.Event(), threading.Event()

    def pause() -> None:
        with collector.paused():
            begun.set()
            ended.wait()

    thread = threading.Thread(target=pause)
    with collector.paused():
        thread.start()
        begun.wait()
    # the thread's pause outlives the one that it began in
    assert not gc.isenabled()
    ended.set()
    thread.join()
    assert gc.isenabled()


def test_a_collector_that_was_turned_off_stays_off() -> None:
    gc.disable()
    with collector.paused():
        assert not gc.isenabled()
    assert not gc.isenabled()
    gc.enable()


def test_it_is_on_again_after_an_error() -> None:
    def function(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        foveal.compile(function)(np.zeros(3, np.float32))
    assert gc.isenabled()


@pytest.mark.parametrize("place", range(8))
def test_an_interruption_leaves_no_pause_behind(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt each call that a pause makes, as a signal handler does: after the call."""
    calls = 0

    class Interrupting:
        """What is called in place of an object, whose methods raise after the call with the number `place`."""

        def __init__(self, target: Any) -> None:
            self.target = target

        def __getattr__(self, name: str) -> Any:
            method = getattr(self.target, name)

            def call(*arguments: Any) -> Any:
                nonlocal calls
                result, calls = method(*arguments), calls + 1
                if calls == place + 1:
                    raise KeyboardInterrupt
                return result

            return call

        def __bool__(self) -> bool:
            return bool(self.target)

    with monkeypatch.context() as patch:
        patch.setattr(collector, "gc", Interrupting(gc))
        patch.setattr(collector, "_pauses", Interrupting(collector._pauses))
        try:
            with collector.paused(), collector.paused():
                pass
        except KeyboardInterrupt:
            pass
        else:
            # more places than calls
            assert calls <= place
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_collects_though_its_parent_is_paused() -> None:
    with collector.paused():
        child = os.fork()
        if not child:
            os._exit(0 if gc.isenabled() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not gc.isenabled()
