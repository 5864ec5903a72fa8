"""Arrays side by side and parts of arrays: as operands of whatever reads them, in any layout, and what is copied."""

import numpy as np
import pytest
from stages import stages_of

import foveal
from foveal import nn, ops
from foveal.build import build
from foveal.errors import ArgumentError, ShapeError
from foveal.ops.op import Type
from foveal.passes.simplify import simplify
from foveal.trace import trace
from foveal.variable import Variable

X = (2, 24, 5, 4)


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("f4") for shape in shapes]


def part(x, start, length, axis=1):
    return ops.narrow(x, axis=axis, start=start, length=length)


def flat(x):
    return x.reshape(2, 480)


@pytest.mark.parametrize("join", [ops.concatenate, ops.concat, ops.stack])
def test_a_list_of_arrays_is_joined_as_numpy_joins_it(join):
    a, b = arrays((2, 3), (2, 3))
    expected = np.stack([a, b], 1) if join is ops.stack else np.concatenate([a, b], 1)
    for function in (lambda a, b: join([a, b], axis=1), lambda a, b: join(a, b, axis=1)):
        np.testing.assert_array_equal(function(a, b), expected)
        np.testing.assert_array_equal(foveal.compile(function)(a, b), expected)
    with pytest.raises(ArgumentError, match="the axis is given by name, axis=1"):
        join([a, b], 1)


def test_a_list_without_an_axis_is_refused_where_numpy_means_another_one():
    a, b = arrays((2, 3), (2, 3))
    np.testing.assert_array_equal(ops.stack([a, b]), np.stack([a, b]))
    with pytest.raises(ArgumentError, match="concatenate: give the axis of a list of arrays by name"):
        ops.concatenate([a, b])


KERNEL = Variable(np.random.default_rng(1).standard_normal((6, 9, 3, 3)))
READERS = {  # what reads a part, and how many arrays are copied for it
    "a convolution": (lambda x: ops.conv2d(part(x, 5, 9), KERNEL, padding=1), 1),
    "its filters": (lambda x: ops.conv2d(part(x, 0, 4), part(KERNEL, 2, 4), padding=0), 2),
    "a pooling": (lambda x: ops.max_pool2d(part(x, 3, 16), kernel_size=2), 1),
    "pointwise": (lambda x: part(x, 0, 8) * part(x, 16, 8) + part(x, 3, 8), 0),
    "a reduction": (lambda x: part(x, 7, 10).sum(axes=(0, 2, 3)), 0),
    "a reshape": (lambda x: part(x, 4, 6).reshape(2, 120) * 2.0, 1),
    "a matrix product": (lambda x: ops.matmul(part(flat(x), 32, 100), part(flat(x), 7, 100), ta=False, tb=True), None),
    "a part of it": (lambda x: part(part(x, 2, 20), 1, 3, axis=2) + 1.0, 0),
    "a place of it": (lambda x: part(x, 8, 5)[1] * 3.0, 0),
    "the caller": (lambda x: part(x, 8, 5), 0),
    "rows beside rows": (lambda x: ops.concatenate(part(x, 1, 2, axis=2), x, part(x, 0, 1, axis=2), axis=2), 2),
    "few rows": (lambda x: ops.concatenate(x.reshape(1, 960), part(x.reshape(1, 960), 1, 700)), None),
    "filters side by side": (lambda x: ops.conv2d(x, ops.concatenate(KERNEL, KERNEL, part(KERNEL, 0, 6))), None),
}


@pytest.mark.parametrize("name", READERS)
def test_parts_are_right_for_every_reader(name):
    function, copies = READERS[name]
    graph, (x,) = trace(function, Type(X)), arrays(X)
    want = graph.evaluate(x.astype("f8"))[0]
    for tuned in (True, False):
        program = build(graph, threads=2, tuned=tuned)
        program.arena[:] = 255
        (got,) = program.run(x)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    made = stages_of(simplify(graph)).layout.conversions
    assert copies in (None, sum(not conversion.fused for conversion in made))


def test_gradients_of_joined_arrays_are_views():
    """Of y = [a, relu(a)] what comes back to a is one pointwise kernel that reads both parts."""

    def slopes(a, dy):
        y = ops.concatenate(a, ops.relu(a))
        return foveal.autodiff.gradients(y, [a], dy)

    a, dy = arrays((2, 8, 3, 3), (2, 16, 3, 3))
    graph = trace(slopes, Type(a.shape), Type(dy.shape))
    assert [group.kind for group in stages_of(simplify(graph)).groups] == ["pointwise"]
    np.testing.assert_allclose(build(graph, threads=1).run(a, dy)[0], dy[:, :8] + dy[:, 8:] * (a > 0), rtol=1e-6)


def test_what_needs_no_work_is_left_out():
    graph = simplify(trace(lambda x: ops.concatenate(part(x, 0, 24)) + 1.0, Type(X)))
    assert [node.op.name for node in graph.nodes if node.op] == ["constant", "add"]


def test_large_arrays_are_written_past_the_cache():
    """Pieces of whole cache lines, and pieces that begin between them."""
    shapes = (8, 32, 96, 96), (8, 16, 96, 96), (8, 17, 96, 96)
    for chosen in ((0, 1), (2, 0, 1)):
        xs = arrays(*(shapes[i] for i in chosen))
        got = foveal.compile(lambda *xs: ops.concatenate(*xs))(*xs)
        np.testing.assert_array_equal(got, np.concatenate(xs, 1))


def test_modules_side_by_side():
    net = nn.Concat(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()))
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]
    (x,) = arrays((2, 3, 4, 4))
    y = net(x)
    first, second = (module for _, module in net.named_children())
    np.testing.assert_allclose(y, np.concatenate([first(x), second(x)], 1), rtol=1e-6)
    assert nn.Concat(nn.Identity(), nn.Identity(), axis=-2)(x).shape == (2, 3, 8, 4)
    assert str(net).startswith("Concat(axis=1")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: ops.concatenate(), "concatenate: takes one array or more"),
        (lambda x: ops.concatenate(x, axis=4), "concatenate: there is no axis 4, the array has 4"),
        (
            lambda x: ops.concatenate(x, x[:, :, 1:]),
            r"concatenate: \(2, 24, 5, 4\), \(2, 24, 4, 4\) differ in more than axis 1; give arrays whose other",
        ),
        (lambda x: ops.concatenate(x, x[0]), "differ in more than axis 1"),
        (lambda x: part(x, 20, 5), r"narrow: 5 from 20 on are not in axis 1 of shape .* at most 24"),
        (lambda x: part(x, -1, 5), "start has to be 0 or more"),
        (lambda x: part(x, 0, 0), "length 1 or more"),
        (lambda x: ops.widen(x, axis=1, start=2, size=25), "widen: 24 places from 2 on are more than 25"),
    ],
)
def test_what_means_nothing_is_refused(call, words):
    with pytest.raises(ShapeError, match=words):
        call(arrays(X)[0])
