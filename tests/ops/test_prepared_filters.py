"""Convolutions of few pixels whose filters are prepared once for many runs: their kernels, and when they are chosen."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import prepared
import pytest

from foveal import nn, ops, optim
from foveal.api import compile
from foveal.build import build
from foveal.kernel.target import AVX2, AVX512, assume, host
from foveal.ops.kernels.conv.cost_model import Problem
from foveal.step import compile_step
from foveal.variable import Variable

# lanes and registers of a target
WIDTHS = [(4, 16), (4, 32), (8, 16), (16, 32)]


def names(program):
    return [call.kernel.name for call in program.schedule.repeated]


@pytest.mark.parametrize("case", prepared.CASES, ids=str)
def test_results_are_those_of_float64_on_any_number_of_threads(case):
    kernel, *shapes = case
    arrays = prepared.inputs(*shapes)
    graph, _ = prepared.graph_of(*arrays, shapes[2])
    found = []
    for threads in (1, 2, 3):
        program = build(graph, threads=threads)
        assert kernel in names(program)
        program.arena[:] = 255
        found.append(program.run(*arrays[:2]))
    assert prepared.agree(found[0], prepared.wanted(*arrays, shapes[2]))
    for one, *others in zip(*found, strict=True):
        assert all(one.tobytes() == other.tobytes() for other in others)


@pytest.mark.parametrize("shape", WIDTHS, ids=str)
@pytest.mark.parametrize(
    "case",
    [
        ((1, 9, 3, 3), (70, 9, 3, 3), {"padding": 1}),
        ((2, 5, 7, 4), (67, 5, 2, 3), {"padding": (1, 0, 0, 2), "stride": 2}),
        ((1, 16, 6, 7), (66, 16, 3, 3), {"padding": 1}),
    ],
    ids=str,
)
def test_results_are_right_at_every_width(case, shape):
    width, registers = shape
    arrays = prepared.inputs(*case)
    with assume(replace(host(), lanes=width, registers=registers)):
        program = build(prepared.graph_of(*arrays, case[2])[0], threads=1)
        assert {prepared.FEW, prepared.TILES} & set(names(program))
        wanted = prepared.wanted(*arrays, case[2])
        program.arena[:] = 255
        assert prepared.agree(program.run(*arrays[:2]), wanted)
        program.arena[:] = 255
        assert prepared.agree(program.interpret(*arrays[:2]), wanted)


def test_kernels_stay_inside_of_their_buffers():
    script = Path(prepared.__file__)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600, cwd=script.parent)
    assert ended.stdout.split() == [str(len(prepared.CASES))], ended.stderr


@pytest.mark.parametrize("case", [prepared.CASES[0], prepared.CASES[6]], ids=str)
def test_changed_filters_are_prepared_again(case):
    _, *shapes = case
    image, extra, filters = prepared.inputs(*shapes)
    graph, weight = prepared.graph_of(image, extra, filters, shapes[2])
    program = build(graph, threads=2)
    program.run(image, extra)
    weight.data = filters[::-1] * 2
    assert prepared.agree(program.run(image, extra), prepared.wanted(image, extra, weight.data, shapes[2]))


def test_training_does_not_take_them():
    """The filters change in every step, so they would be packed for one use."""
    net = nn.Sequential(
        nn.Conv2d(40, 70, 3, padding=1), nn.Conv2d(70, 70, 3, padding=1), nn.Flatten(), nn.Linear(1120, 3)
    )
    x = np.zeros((1, 40, 4, 4), np.float32)
    step = compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))
    assert not {prepared.FEW, prepared.TILES} & set(names(step.program(x, np.array([0]))))
    weight = Variable(np.zeros((70, 40, 3, 3)))
    given = compile(lambda x, w: ops.conv2d(x, w, padding=1))
    assert prepared.TILES not in names(given.program(x, weight.data))
    assert prepared.TILES in names(compile(lambda x: ops.conv2d(x, weight, padding=1)).program(x))


# bytes of parameters of networks whose filters do and do not stay in the last-level cache
LARGE, SMALL = 40 << 20, 1 << 20


def chosen(C, K, size, parameters, N=1, stride=1):
    pair = (stride, stride)
    return Problem("forward", N, C, K, size, size, (3, 3), pair, (1, 1), 1, parameters).default().winograd_tile


@pytest.mark.parametrize("target", [AVX2, AVX512], ids=lambda target: target.name)
def test_the_choice_counts_the_bytes_of_filters(target):
    with assume(target):
        # 16 pixels: reading 9 numbers of each filter takes as long as their products, 16 or 36 would take longer
        assert chosen(512, 512, 4, LARGE) == chosen(512, 512, 2, LARGE) == 0
        # 49 and 64 pixels: 16 numbers, of 2 x 2 tiles, for less products; more pixels pay for 36 numbers
        assert chosen(512, 512, 7, LARGE) == chosen(256, 256, 8, LARGE) == 2
        assert (chosen(256, 256, 14, LARGE), chosen(64, 64, 56, LARGE)) == (7, 4)
        # out of a cache they are read faster
        assert chosen(64, 64, 8, SMALL) == 4
        # few channels leave most of a transform's vectors empty
        assert chosen(3, 64, 32, LARGE) == 0
        # many pixels hide the reading: as without it
        assert chosen(512, 512, 4, LARGE, N=64) == 4
