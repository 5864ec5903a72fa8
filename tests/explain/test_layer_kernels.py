"""The code of layers: which share kernels, and that each stage is what really runs."""

import inspect
import textwrap

import numpy as np
import pytest

from foveal import explain, nn, ops
from foveal.errors import ArgumentError, ShapeError
from foveal.explain.layer_kernels import equation
from foveal.kernel.compile import assembly
from foveal.kernel.target import current
from foveal.ops.conv import Conv2d
from foveal.ops.elementwise import Relu

X = np.random.default_rng(0).standard_normal((4, 3, 10, 10), "float32")


@pytest.fixture(scope="module")
def net():
    nn.seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 3)
    return nn.Sequential(nn.Sequential(*layers[:3]), *layers[3:])


@pytest.fixture(scope="module")
def found(net):
    return explain.kernels(net, X)


def group_of(found, layer):
    return next(group for group in found if any(name == layer for name, _ in group.layers) and group.seconds)


def test_layers_that_are_fused_share_kernels(found):
    first = group_of(found, "0.0")
    assert first.layers == (("0.0", "Conv2d"), ("0.1", "BatchNorm2d"), ("0.2", "ReLU"))
    assert first.label == "0.0 Conv2d + 0.1 BatchNorm2d + 0.2 ReLU"
    assert first is group_of(found, "0.2")
    assert [op.name for op in first.operators] == ["conv2d", "add", "batch_norm_inference", "relu"]
    # A view of memory has no kernel.
    assert not any(name == "2" for group in found for name, _ in group.layers)
    assert first.label in str(found)


def test_the_measured_speed_is_of_the_equations_operations(net, found):
    first, pool = group_of(found, "0.0"), group_of(found, "1")
    # 2 N K P Q C R S
    assert first.flops == 2 * 4 * 8 * 8 * 8 * 3 * 3 * 3
    assert first.rate == pytest.approx(first.flops / first.seconds / 1e9)
    assert first.share == pytest.approx(first.rate / first.peak)
    # float32: what is read and what is written
    assert (pool.flops, pool.bytes) == (0, 4 * (4 * 8 * 8 * 8 + 4 * 8 * 4 * 4))
    assert "GFLOP/s" in first.measured()
    assert "GB/s" in pool.measured()


def test_each_stage_is_what_runs(found):
    first = group_of(found, "0.0")
    assert dict(first.parts("equation"))["conv2d"].startswith("y[n,k,p,q] = sum_crs x[n, c, p u + r d - pad")
    assert dict(first.parts("loop"))["conv2d"] == textwrap.dedent(inspect.getsource(Conv2d.kernel))
    assert dict(first.parts("loop"))["relu"] == textwrap.dedent(inspect.getsource(Relu.scalar))
    # The packing of filters reads parameters alone.
    assert [call.once for call in first.calls if call.name == "pack_panels"] == [True]
    last = [call for call in first.calls if not call.once][-1]
    code = last.code[0]
    assert code.source == textwrap.dedent(inspect.getsource(code.kernel.body))
    assert f"define void @{last.name}(" in code.ir
    own = code.assembly.replace(last.name, "kernel")
    assert own.splitlines()[2:] == assembly(code.kernel, current()).splitlines()[2:]
    text = first.text()
    assert all(f"== {title}" in text for title in ("equation", "textbook loop", "kernel source", "LLVM IR", "assembly"))
    assert code.assembly.rstrip() in text
    assert "== LLVM IR" not in first.text("source")


def test_one_layer_or_all_inside_of_one(net):
    assert [group.label for group in explain.kernels(net, X, layer="1")] == ["1 MaxPool2d"]
    inside = explain.kernels(net, X, layer="0")
    assert {name for group in inside for name, _ in group.layers} == {"0.0", "0.1", "0.2"}
    with pytest.raises(ShapeError, match=r"has no layer '7'; it has 0, 0\.0, 0\.1"):
        explain.kernels(net, X, layer="7")
    with pytest.raises(ShapeError, match="layer '2' of Sequential has no kernel: what it returns is its input"):
        explain.kernels(net, X, layer="2")
    with pytest.raises(ArgumentError, match="there is no stage 'binary'; choose one of equation, loop, source, ir"):
        inside.text("binary")


def test_the_page_is_whole_and_unfolds(net, tmp_path):
    found = explain.kernels(net, X, layer="1")
    found.save(tmp_path / "kernels.html")
    page = (tmp_path / "kernels.html").read_text()
    assert page.count("<details") == 6
    for outside in ("<script", "http:", "https:", "src=", "@import"):
        assert outside not in page
    assert "max_windows" in page
    assert found._repr_html_() in page


def test_an_operator_of_ones_own_runs_in_python():
    twice = ops.operator(lambda x: 2 * x, name="twice_for_kernels")

    class Twice(nn.Module):
        def forward(self, x):
            return twice(x)

    with pytest.warns(match="has no kernel, so programs call its numpy"):
        (group,) = explain.kernels(nn.Sequential(Twice()), X)
    assert group.calls[0].code == ()
    assert "runs in Python" in group.text("source")
    assert equation(twice) == "(its class has no docstring)"
