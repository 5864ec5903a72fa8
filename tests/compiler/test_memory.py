"""Memory of a training step: what is computed again instead of being kept, and the plan that is told before a run."""

import json
from collections import Counter
from itertools import permutations

import guard
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stages import stages_of

import foveal
from foveal import nn, ops, optim
from foveal.arena import plan_arena
from foveal.build import build
from foveal.data import from_arrays
from foveal.errors import ShapeError
from foveal.nn import models
from foveal.ops.op import Type
from foveal.passes.plan_memory import Lifetime, plan_memory
from foveal.passes.simplify import simplify
from foveal.scheduling import schedule
from foveal.trace import trace
from foveal.train import train


def small(name):
    if name == "resnet20":
        return models.build(name, channels=3, size=(16, 16), classes=10)
    nn.seed(0)
    extra = [nn.Dropout(0.3)] if name == "dropout" else [nn.MaxPool2d(2)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *extra,
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (16 * 16 if name == "dropout" else 8 * 8), 10),
    )


def trained(name, memory, threads=2, steps=3):
    net = small(name)
    optimizer = optim.Momentum(net.parameters(), lr=0.01)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, threads, memory=memory)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((16, 3, 16, 16)).astype("f4"), rng.integers(0, 10, 16)
    losses = [step(x, labels).loss for _ in range(steps)]
    return losses, net.state_dict(), step.program(x, labels)


@pytest.mark.parametrize("name", ["resnet20", "pooled", "dropout"])
def test_low_memory_trains_the_same_and_holds_less(name):
    losses, state, program = trained(name, "fast")
    low_losses, low_state, low = trained(name, "low")
    np.testing.assert_allclose(low_losses, losses, rtol=1e-4)
    for key, value in state.items():
        np.testing.assert_allclose(low_state[key], value, rtol=1e-3, atol=1e-4)
    assert low.arena_plan.size <= program.arena_plan.size * (0.9 if name == "resnet20" else 1.0)


def test_low_memory_gives_the_same_bits_on_any_number_of_threads():
    _, one, _ = trained("resnet20", "low", threads=1)
    _, two, _ = trained("resnet20", "low", threads=2)
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_what_a_call_writes_no_other_of_its_phase_uses():
    """What is read for the last time ends in the phase in which the input of the next chain of products begins."""

    def chains(few, many, w, v):
        return [ops.matmul(ops.matmul(ops.tanh(x), w), v) for x in (few, many)]

    graph = simplify(trace(chains, Type((6, 20)), Type((60, 20)), Type((20, 10)), Type((10, 5))))
    lowered = stages_of(graph).lowered
    scheduled = schedule(lowered.calls, graph)
    plan = plan_arena(scheduled, lowered.outputs, threads=2)
    assert max(Counter(scheduled.phases).values()) > 1
    ends = {b: (o, o + size) for b, o, size in zip(plan.buffers, plan.offsets, plan.sizes, strict=True)}
    numbered = list(zip(scheduled.phases, scheduled.repeated, strict=True))
    pairs = [(one, other) for (i, one), (j, other) in permutations(numbered, 2) if i == j]
    together = [(ends.get(y.buffer), ends.get(x.buffer)) for a, b in pairs for y in a.written for x in b.views]
    assert all(y[1] <= x[0] or x[1] <= y[0] for y, x in together if y and x)


def test_a_result_takes_the_place_of_what_dies():
    first, norm, last = nn.Conv2d(8, 32, 1), nn.BatchNorm2d(32), nn.Conv2d(32, 1, 1)
    graph = trace(lambda x: last(ops.relu(norm(first(x)))), Type((4, 8, 16, 16)))
    program = build(graph, threads=1)
    offsets = dict(zip(program.arena_plan.buffers, program.arena_plan.offsets, strict=True))
    pairs = [
        (x, y)
        for call in program.calls
        if call.kernel.name == "pointwise"
        for y in (v.buffer for v in call.views[: call.outputs])
        for x in (v.buffer for v in call.views[call.outputs :])
        if x is not y and x in offsets and y in offsets and x.size == y.size == 32 * 1024
    ]
    assert pairs
    assert all(offsets[x] == offsets[y] for x, y in pairs)
    xs = np.random.default_rng(0).standard_normal((4, 8, 16, 16)).astype(np.float32)
    want = build(graph, threads=2, allocate=guard.allocator(True)).run(xs)
    for threads in (1, 2):
        other = build(graph, threads=threads)
        other.arena[:] = 255
        assert other.run(xs)[0].tobytes() == want[0].tobytes()
        assert np.allclose(other.interpret(xs)[0], want[0], rtol=1e-4, atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 8), st.booleans()), max_size=20), st.data())
def test_heirs_lie_apart_from_all_others(drawn, data):
    lifetimes, heirs = [], {}
    for size, length, heir in drawn:
        free = [i for i in range(len(lifetimes)) if i not in heirs.values()]
        if heir and free:
            old = data.draw(st.sampled_from(free))
            first = lifetimes[old].last
            heirs[len(lifetimes)] = old
            lifetimes.append(Lifetime(lifetimes[old].size, first, first + length))
        else:
            first = data.draw(st.integers(0, 20))
            lifetimes.append(Lifetime(size, first, first + length))
    plan = plan_memory(lifetimes, heirs)
    assert plan.size <= plan_memory(lifetimes).size
    for i, a in enumerate(lifetimes):
        for j, b in enumerate(lifetimes[:i]):
            if not (a.first <= b.last and b.first <= a.last):
                continue
            ends = plan.offsets[i] + a.size <= plan.offsets[j]
            starts = plan.offsets[j] + b.size <= plan.offsets[i]
            chained = heirs.get(i) == j and plan.offsets[i] == plan.offsets[j]
            assert ends or starts or chained or related(heirs, lifetimes, i, j)


def related(heirs, lifetimes, i, j):
    """Whether one is an heir of the other over several that live for a single call."""
    while i in heirs:
        i = heirs[i]
        if i == j:
            return True
    return False


def test_metrics_hold_the_plan(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 1, 8, 8)).astype(np.float32), np.arange(40) % 2
    data = from_arrays("two", x, y, x, y)
    metrics = train(data, out=tmp_path, epochs=1, batch_size=20, quiet=True, memory="low")
    told = json.loads((tmp_path / "metrics.json").read_text())["memory_bytes"]
    assert metrics["memory"] == "low"
    assert told == metrics["memory_bytes"]
    assert told["batch"] >= 4 * 20 * 64
    assert 0 < told["values"] < told["without_reuse"]
    assert told["variables"] > 4 * metrics["parameters"]


def test_the_plan_is_told_in_words():
    _, _, program = trained("pooled", "fast", steps=1)
    words = str(program.footprint())
    assert f"activations and gradients {program.arena_plan.size / 2**20:.1f} MiB" in words
    assert "without reuse" in words
    assert "batch 0.0 MiB" in words


def test_unknown_modes_are_refused():
    with pytest.raises(ShapeError, match="memory 'tiny' is not known; choose one of fast, low"):
        trained("pooled", "tiny")
