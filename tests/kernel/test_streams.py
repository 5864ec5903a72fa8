"""Values too large for the cache are written past it: same bits, whole lines only, nothing outside of their memory."""

import checks
import guard
import numpy as np
import pytest
from stages import stages_of

from foveal import nn, ops, view
from foveal.build import build
from foveal.kernel.compile import assembly
from foveal.kernel.target import AVX2, AVX512, NEON, SSE, assume
from foveal.ops import OPS
from foveal.ops.batch_norm import per_channel
from foveal.ops.kernels.conv import select
from foveal.ops.kernels.conv.cost_model import Algorithm
from foveal.ops.op import Type
from foveal.passes.simplify import simplify
from foveal.trace import trace

IMAGE, FILTERS, CHANNELS = Type((2, 16, 12, 12)), Type((48, 16, 3, 3)), Type((48,))


def layers(x, w, b):
    """Minimal filtering, a direct convolution and a pooling with what follows each; a pointwise value of its own."""
    y = ops.conv2d(x, w, padding=1)
    y = ops.relu(y + per_channel(b, y))
    z = ops.tanh(ops.max_pool2d(y, kernel_size=2, stride=2))
    return y, z, ops.conv2d(z, ops.reshape(w, shape=(16, 48, 3, 3)), stride=2), y * y


@pytest.fixture
def everything_streams(monkeypatch):
    monkeypatch.setattr(view, "min_streamed_bytes", lambda: 0)


@pytest.mark.parametrize("name", ["conv2d", "conv2d_input_grad", "max_pool2d", "avg_pool2d_grad"])
def test_streaming_changes_no_bit_of_an_operator(monkeypatch, name):
    for case in OPS[name].cases:
        graph, xs, _ = checks.forward(OPS[name], case)
        (want,) = build(graph, threads=1).run(*xs)
        with monkeypatch.context() as patch:
            patch.setattr(view, "min_streamed_bytes", lambda: 0)
            program = build(graph, threads=2, allocate=guard.allocator(True))
        (got,) = program.run(*xs)
        assert got.tobytes() == want.tobytes()


def graph_and_values():
    rng = np.random.default_rng(0)
    types = (IMAGE, FILTERS, CHANNELS)
    values = [rng.standard_normal(t.shape).astype(np.float32) for t in types]
    return trace(layers, *types), values


def streamed(program):
    return [any(view.spec.streamed for view in call.views) for call in program.lowered.calls]


@pytest.mark.parametrize("at_end", [True, False])
def test_streaming_changes_no_bit(monkeypatch, at_end):
    graph, values = graph_and_values()
    plain = build(graph, threads=1)
    want = [y.tobytes() for y in plain.run(*values)]
    assert not any(streamed(plain))
    monkeypatch.setattr(view, "min_streamed_bytes", lambda: 0)
    for threads in (1, 2, 3):
        program = build(graph, threads=threads, allocate=guard.allocator(at_end))
        assert sum(streamed(program)) >= 4
        assert [y.tobytes() for y in program.run(*values)] == want


@pytest.mark.usefixtures("everything_streams")
@pytest.mark.parametrize(
    ("target", "store"), [(AVX512, "vmovntps"), (AVX2, "vmovntps"), (SSE, "movntps"), (NEON, "stnp")]
)
def test_each_target_has_stores_past_the_cache(target, store):
    graph = simplify(trace(lambda a, b: ops.relu(a * b), *[Type((4096,))] * 2))
    with assume(target):
        (call,) = stages_of(graph).lowered.calls
        text = assembly(call.kernel, target)
    assert store in text


@pytest.mark.usefixtures("everything_streams")
def test_pieces_of_lines_do_not_pass_the_cache():
    """A line of which two stores write a half each at different times would be read and written twice."""
    graph = simplify(trace(ops.conv2d, Type((16, 3, 6, 6)), Type((24, 3, 3, 3))))
    with assume(AVX512):
        calls = stages_of(graph).lowered.calls
        texts = [assembly(call.kernel, AVX512) for call in calls]
    assert any(view.spec.streamed for call in calls for view in call.views)
    assert not any("movnt" in text for text in texts)


def test_small_values_and_what_outlives_a_step_stay_in_the_cache():
    size = view.min_streamed_bytes() // 4
    assert view.Buffer(size).streamed
    assert not view.Buffer(size - 16).streamed
    assert not view.Buffer(size + 1).streamed
    assert not view.Buffer(size, argument=True).streamed
    assert not view.Buffer(size, variable=nn.Linear(1, 1).weight).streamed
    assert not view.Buffer(size, per_thread=True).streamed


@pytest.mark.usefixtures("everything_streams")
def test_the_vectors_of_a_pixel_leave_minimal_filtering_together(monkeypatch):
    """With 8 lanes a line is two vectors: what lies between their stores are those of a row of a tile's outputs."""
    monkeypatch.setattr(select, "choose", lambda _: Algorithm(4))
    graph = simplify(trace(lambda x, w: ops.conv2d(x, w, padding=1), Type((2, 16, 8, 8)), Type((16, 16, 3, 3))))
    with assume(AVX2):
        (call,) = (c for c in stages_of(graph).lowered.calls if c.kernel.name == "winograd")
        text = assembly(call.kernel, AVX2)
    assert text.count("vmovntps") == 4


def test_no_moment_is_stored_lane_by_lane():
    """LLVM makes a masked store, which AVX2 is slow at, of a choice that is stored to where it may come from."""
    graph = simplify(trace(lambda x: ops.channel_moments(ops.max_pool2d(x, kernel_size=2)), Type((2, 16, 8, 8))))
    with assume(AVX2):
        texts = [assembly(call.kernel, AVX2) for call in stages_of(graph).lowered.calls]
    assert not any("vmaskmov" in text for text in texts)
