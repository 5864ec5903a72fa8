"""Arrays without elements, scalars, and parts of arrays: NumPy's result, or one clear error, compiled and at once."""

import functools

import checks
import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.build import build
from foveal.errors import DataError, ShapeError
from foveal.ops import OPS
from foveal.trace import trace


def emptied(case):
    """The inputs of a case and its attributes, once for each size that occurs, with 0 in its place."""
    arrays = case.arrays(0)
    for size in sorted({n for x in arrays for n in x.shape}):
        made = [np.zeros([0 if n == size else n for n in x.shape], x.dtype) for x in arrays]
        attributes = dict(case.attributes)
        if "shape" in attributes:
            attributes["shape"] = tuple(0 if n == size else n for n in attributes["shape"])
        yield made, attributes


def outcome(compute):
    """An array, or None where it is refused with a ShapeError."""
    with np.errstate(all="ignore"):
        try:
            return compute()
        except ShapeError:
            return None


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.cases[0].shapes])
def test_every_operator_without_elements(name):
    op = OPS[name]
    for arrays, attributes in emptied(op.cases[0]):

        def compiled(arrays=arrays, attributes=attributes):
            graph = trace(lambda *symbols: op(*symbols, **attributes), *checks.types(arrays))
            return build(graph, threads=1).run(*arrays)[0]

        want, got = outcome(lambda a=arrays, k=attributes: op(*a, **k)), outcome(compiled)
        assert (want is None) == (got is None)
        if want is not None:
            assert got.shape == want.shape
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["sigmoid", "add", "matmul", "conv2d", "sum", "max_pool2d", "batch_norm_inference"])
def test_gradients_without_elements(name):
    op = OPS[name]
    case = op.cases[0]
    arrays = [np.zeros((0, *x.shape[1:]) if i == 0 or name == "add" else x.shape) for i, x in enumerate(case.arrays(0))]
    arrays = [x.astype(np.float32) for x in arrays]
    count = range(len(arrays))
    slopes = foveal.value_and_grad(lambda *x: op(*x, **case.attributes).sum(), tuple(count))(*arrays)[1]
    for x, slope in zip(arrays, slopes, strict=True):
        assert slope.shape == x.shape
        assert not slope.any()


MEANS = [
    lambda x: ops.mean(x, axes=0),
    lambda x: ops.softmax(x, axis=0),
    lambda x: ops.standardize(x, axes=0),
    lambda x: ops.rms_norm(x, axes=(0, 1)),
    lambda x: ops.channel_moments(x),
    lambda x: ops.group_norm(ops.reshape(x, shape=(3, 0)), groups=1),
]


@pytest.mark.parametrize("mean", MEANS)
def test_a_mean_or_maximum_of_nothing_is_refused(mean):
    for computed in (mean, foveal.compile(mean)):
        with pytest.raises(ShapeError, match=r"there is no \w+ of no elements, shape"):
            computed(np.zeros((0, 3), np.float32))


def test_a_batch_without_images_is_refused():
    net = nn.Linear(3, 2)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1))
    for call in (lambda x: net(x), lambda x: step(x, np.zeros(0, np.int32))):
        with pytest.raises(DataError, match="empty"):
            call(np.zeros((0, 3), np.float32))


V = np.array([3.0, 4.0, 5.0], np.float32)
M = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
# a function that ends in parts of its input, that input, and the gradient by NumPy
SCALARS = {
    "two parts": (lambda v: v[0] * v[0] - v[1] * v[1], V, [6, -8, 0]),
    "from the end": (lambda v: v[-1] * v[0], V, [5, 0, 3]),
    "one element": (lambda v: v[0], V[:1], [1]),
    "a scalar": (lambda s: s * s, np.float32(3), 6),
    "a scalar's function": (lambda s: ops.sigmoid(s) * 4.0, np.float32(0), 1),
    "a place": (lambda m: m[1, 2, 3] * 2.0, M, 2.0 * (np.arange(24).reshape(2, 3, 4) == 23)),
    "a slice": (lambda m: m[:, 1:3].sum(), M, np.broadcast_to([[0], [1], [1]], (2, 3, 4))),
    "after an ellipsis": (lambda m: m[..., -1].sum(), M, np.broadcast_to([0, 0, 0, 1], (2, 3, 4))),
    "unpacked": (lambda v: (lambda a, b, c: a * b * c)(*v), V, [20, 15, 12]),
    "a reshaped scalar": (lambda v: (v[0].reshape(1, 1) * 2.0).sum(), V, [2, 0, 0]),
    "a scalar repeated": (lambda v: (v[1] * v).sum(), V, [4, 16, 4]),
}


@pytest.mark.parametrize("name", SCALARS)
def test_gradients_of_functions_of_scalars_and_parts(name):
    function, x, want = SCALARS[name]
    np.testing.assert_allclose(foveal.grad(function)(x), np.asarray(want, np.float32), rtol=1e-6)


@pytest.mark.parametrize("key", [0, -1, (1, 2), (slice(None), 1), (slice(0, 1), slice(1, 3)), (..., 2), (1, ..., -2)])
def test_parts_are_numpys(key):
    np.testing.assert_array_equal(foveal.compile(lambda m: m[key])(M), M[key])


WRONG_PARTS = [
    (2, "there is no part 2 among the 2 parts of the first axis"),
    ((slice(None), 3), "there is no part 3 among the 3 of axis 1"),
    ((0, 0, 0, 0), "4 indices for the 3 axes"),
    (slice(0, 2, 0), "slice step cannot be zero"),
    (slice(2, 0, 2), "takes nothing of the 2 parts"),
    (1.5, "not with 1.5"),
    (True, "not with True"),
    (np.array([True, False]), "for masks use ops.where"),
    ((..., [0, 4]), r"\[0, 4\] names parts that the 4 of axis 2"),
    (([0, 1], [0, 1]), "2 lists here: index step by step"),
    (functools.reduce(lambda part, _: [part], range(200), 0), "nested too deeply; give one list, or index with"),
    ([[0], [1, 0]], r"not with \[\[0\], \[1, 0\]\], whose lists are not of one length"),
    ((0, slice(None), [0, 1]), "with other axes between them"),
    ((..., 0, ...), "more than one Ellipsis"),
]


@pytest.mark.parametrize(("key", "words"), WRONG_PARTS)
def test_parts_that_are_not_there(key, words):
    with pytest.raises(ShapeError, match=words):
        foveal.compile(lambda m: m[key])(M)
    with pytest.raises(ShapeError, match="a scalar, which has no axes"):
        foveal.compile(lambda s: ops.index(s, i=0))(np.float32(1))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (lambda v: v[0] == 3, "the truth of a traced value is not known"),
        (lambda v: v != V, "array of type ndarray that is no argument"),
        (lambda v: 3.0 in v, "whether a traced value holds a number is not known"),
    ],
)
def test_traced_values_are_not_compared_with_numbers_as_objects(asked, words):
    with pytest.raises(ShapeError, match=words):
        foveal.grad(lambda v: v[0] if asked(v) else v[1])(V)
