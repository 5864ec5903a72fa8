"""What depthwise convolutions compute while they read: a batch norm forwards, and its gradient backwards."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foveal import ops
from foveal.autodiff import gradients
from foveal.build import build
from foveal.checking.guard_pages import allocator
from foveal.kernel.target import assume, host
from foveal.ops.op import Type
from foveal.passes.recompute import LOW
from foveal.trace import trace

# images with more pixels than are unrolled, and more elements than the last-level cache that is assumed holds
N, G, H, W = 2, 19, 17, 22
SMALL_CACHE = {"llc": 64}


def block(stride, extra=False):
    """The graph of norm, clip, depthwise convolution, norm and relu, with all gradients.

    extra: the clipped image is an output as well.
    """
    image, channels, filters = Type((N, G, H, W)), Type((G,)), Type((G, 1, 3, 3))
    out = Type((N, G, -(-H // stride), -(-W // stride)))

    def function(x, gamma, beta, w, gamma2, beta2, dz):
        y = ops.clip(ops.batch_norm(x, gamma, beta), low=0.0, high=6.0)
        convolved = ops.conv2d(y, w, padding=1, groups=G, stride=stride)
        z = ops.relu(ops.batch_norm(convolved, gamma2, beta2))
        return [z, *([y] if extra else []), *gradients(z, [x, gamma, beta, w, gamma2, beta2], dz)]

    return trace(function, image, channels, channels, filters, channels, channels, out)


def drawn(graph):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(node.shape).astype(np.float32) for node in graph.arguments]


def check(graph, **how):
    """The program, whose outputs equal NumPy's in float64."""
    xs = drawn(graph)
    program = build(graph, threads=2, **how)
    program.arena[:] = 255
    for got, want in zip(program.run(*xs), graph.evaluate(*(x.astype(np.float64) for x in xs)), strict=True):
        assert abs(got - want).max() <= 1e-5 * abs(want).max()
    return program


def convolutions(program):
    """What is computed by the program's convolutions, and what before each."""
    found = {}
    for group in program.groups:
        if group.anchor is not None and str(group.anchor.op).startswith("conv2d"):
            found[str(group.anchor.op)] = " ".join(str(node.op) for node in group.prologue)
    return found


@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution_normalises_what_it_reads(stride):
    with assume(replace(host(), **SMALL_CACHE)):
        program = check(block(stride))
    assert convolutions(program) == {
        "conv2d": "subtract multiply add clip",
        "conv2d_input_grad": "subtract where subtract multiply multiply subtract multiply",
    }
    # neither the input of the convolution nor the gradient of its output is in memory
    stored = [node for group in program.groups for node in group.results if node.shape == (N, G, H, W)]
    assert len(stored) == (4 if stride == 1 else 2)


def test_stride_three_and_one_thread_have_the_same_bits():
    with assume(replace(host(), **SMALL_CACHE)):
        graph = block(3)
        xs = drawn(graph)
        runs = [build(graph, threads=threads).run(*xs) for threads in (1, 3)]
        check(graph)
    assert [y.tobytes() for y in runs[0]] == [y.tobytes() for y in runs[1]]


def test_images_in_the_cache_are_normalised_once():
    assert set(convolutions(check(block(1))).values()) == {""}


def test_a_normalised_image_that_others_need_is_stored():
    with assume(replace(host(), **SMALL_CACHE)):
        assert convolutions(check(block(1, extra=True)))["conv2d"] == ""


def test_low_memory_computes_the_same():
    with assume(replace(host(), **SMALL_CACHE)):
        fast, low = check(block(2)), check(block(2), memory=LOW)
    assert low.arena.nbytes <= fast.arena.nbytes


@pytest.mark.parametrize("shape", [(4, 16), (8, 16), (16, 32)], ids=str)
def test_every_width(shape):
    width, registers = shape
    with assume(replace(host(), lanes=width, registers=registers, **SMALL_CACHE)):
        graph = block(2)
        program, xs = check(graph), drawn(graph)
        program.arena[:] = 255
        for got, want in zip(program.interpret(*xs), graph.evaluate(*(x.astype(np.float64) for x in xs)), strict=True):
            assert abs(got - want).max() <= 1e-5 * abs(want).max()


def test_kernels_stay_inside_of_their_buffers():
    """In a process of its own, which ends at once if they do not."""
    ended = subprocess.run([sys.executable, __file__], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


if __name__ == "__main__":
    with assume(replace(host(), **SMALL_CACHE)):
        for stride in (1, 2):
            for at_end in (True, False):
                check(block(stride), allocate=allocator(at_end))
