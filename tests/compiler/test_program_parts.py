"""Programs that run in parts: pauses after calls and before messages between shards, and what is undone."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.build import build
from foveal.errors import StateError
from foveal.ops.op import OPS, Type
from foveal.trace import current, trace

RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4)).astype("float32")


@pytest.fixture
def total():
    """An operator between shards: the sum of an array over them. Alone it is what the array is."""
    before = dict(OPS)

    def numpy(self, x):
        return x

    def vjp(self, dy, y, x):
        return (dy,)

    made = {"name": "total_of_shards", "between_shards": True, "numpy": numpy, "vjp": vjp, "__module__": "own"}
    yield type("Total", (ops.Operator,), made)()
    OPS.clear()
    OPS.update(before)


def driven(parts, compute=lambda message, inputs: inputs[0]):
    """Run all parts; return the numbers of calls before the pauses, and the outputs."""
    seen = []
    while True:
        try:
            pause = next(parts)
        except StopIteration as ended:
            return seen, ended.value
        seen.append(pause.done)
        if pause.message is not None:
            pause.y[...] = compute(pause.message, pause.inputs)


def network():
    nn.seed(2)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("threads", [1, 2])
def test_parts_compute_what_a_run_does(threads):
    """A training step that pauses after every call, and one that does not, change a network alike."""
    labels, found = np.array([0, 1, 2, 0, 1, 2], np.int32), []
    for stops in (None, (), range(1000), (3, 5)):
        net = network()
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.1), threads)
        program, key = step.program(X, labels), np.zeros(4, np.int32)
        for _ in range(2):
            if stops is None:
                results = program.run(X, labels, key)
            else:
                pauses, results = driven(program.parts([X, labels, key], stops))
                assert pauses == [i + 1 for i in stops if i < len(program.calls)]
        found.append([array.tobytes() for array in (*results, *net.state_dict().values())])
    assert found[1:] == found[:1] * 3


def test_an_interruption_during_a_pause_undoes_the_run_and_frees_the_program():
    labels, key = np.array([0, 1, 2, 0, 1, 2], np.int32), np.zeros(4, np.int32)
    net = network()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.1), 2)
    program = step.program(X, labels)
    before = [array.tobytes() for array in net.state_dict().values()]
    for end in ("close", "throw"):
        # one call is left
        parts = program.parts([X, labels, key], [len(program.calls) - 2])
        assert next(parts).done == len(program.calls) - 1
        assert [array.tobytes() for array in net.state_dict().values()] != before
        with pytest.raises(StateError, match="within a run"):
            program.run(X, labels, key)
        if end == "close":
            parts.close()
        else:
            with pytest.raises(KeyboardInterrupt):
                parts.throw(KeyboardInterrupt())
        assert [array.tobytes() for array in net.state_dict().values()] == before
        assert np.isnan(program.results[0]).all()
    assert np.isfinite(program.run(X, labels, key)[0])
    # Where the caller puts back, nothing is.
    before = [array.tobytes() for array in net.state_dict().values()]
    parts = program.parts([X, labels, key], [len(program.calls) - 2], restore=False)
    next(parts)
    parts.close()
    assert [array.tobytes() for array in net.state_dict().values()] != before


def test_twins_run_in_lockstep_and_exchange_messages(total):
    """Two programs of the same code, which share a variable: each gets the sum of both inputs."""
    seen = foveal.Variable(np.zeros(4), "seen")

    def function(x):
        y = ops.exp(total(ops.relu(x).sum(axis=0)) * 0.1)
        current().assign(seen, seen + y)
        return total(y * x)

    program = build(trace(function, Type((6, 4))), 2)
    twin = program.twin()
    # A shard alone.
    (alone,) = program.run(X)
    y = np.exp(np.maximum(X, 0).sum(axis=0) * 0.1)
    np.testing.assert_allclose(alone, y * X, rtol=1e-5)
    np.testing.assert_allclose(seen.data, y, rtol=1e-5)
    seen.data = 0.0
    both = [program.parts([X]), twin.parts([2 * X])]
    for _ in range(2):
        pauses = [next(parts) for parts in both]
        assert pauses[0].message.op is total
        sums = sum(pause.inputs[0] for pause in pauses)
        for pause in pauses:
            pause.y[...] = sums
    found = []
    for parts in both:
        with pytest.raises(StopIteration) as ended:
            next(parts)
        found.append(ended.value.value[0])
    y = np.exp(3 * np.maximum(X, 0).sum(axis=0) * 0.1)
    for result in found:
        np.testing.assert_allclose(result, y * 3 * X, rtol=1e-5)
    assert twin.binding.code is program.binding.code
    assert not np.shares_memory(twin.arena, program.arena)
    np.testing.assert_allclose(seen.data, 2 * y, rtol=1e-5)
