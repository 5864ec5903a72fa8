"""Arguments and results that are large enough to be copied by native code: what callers give and get, and what not."""

import sys
import threading

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import DataError, NumericsError, ShapeError
from foveal.handover import LARGE, MOST_WAYS
from foveal.variable import Variable

SHAPES = {
    "brief": (1, 3, 17, 16),
    "colour": (12, 3, 17, 16),
    "grey": (20, 1, 21, 23),
    "channels": (3, 40, 9, 9),
    "matrix": (90, 101),
}


def images(shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    assert x.nbytes >= LARGE
    return x


def layouts(x):
    """The same values in other places: as they are, channels last, with gaps, backwards, in the other byte order."""
    yield "C order", x
    if x.ndim == 4:
        yield "channels last", np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    yield "Fortran order", np.asfortranarray(x)
    gaps = np.repeat(x, 2, axis=-1)
    yield "gaps", gaps[..., ::2]
    yield "backwards", np.ascontiguousarray(x[::-1])[::-1]
    memory = np.zeros(x.nbytes + 1, np.uint8)
    shifted = memory[1:].view(np.float32).reshape(x.shape)
    shifted[...] = x
    yield "not aligned", shifted
    read_only = x.copy()
    read_only.flags.writeable = False
    yield "read only", read_only
    yield "float64", x.astype(np.float64)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", SHAPES)
def test_arguments_and_results_are_the_same_in_every_layout(kind, threads):
    x = images(SHAPES[kind])
    double = foveal.compile(lambda x: {"twice": x + x, "as it is": x}, threads=threads)
    for name, given in layouts(x):
        before = given.tobytes()
        got = double(given)
        assert got["twice"].tobytes() == (x + x).tobytes(), name
        assert got["as it is"].tobytes() == x.tobytes(), name
        assert all(y.flags.c_contiguous for y in got.values())
        assert given.tobytes() == before


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", SHAPES)
def test_arrays_of_other_strides_and_of_float64_are_copied_by_native_code_from_the_second_on(kind, threads):
    x = images(SHAPES[kind])
    double = foveal.compile(lambda x: x + x, threads=threads)
    whole = np.full([n + 3 for n in x.shape], np.nan, np.float32)
    crop = whole[tuple(slice(1, 1 + n) for n in x.shape)]
    crop[...] = x
    given = {name: one for name, one in layouts(x) if name in ("Fortran order", "gaps", "backwards", "float64")}
    given |= {"crop": crop, "wide crop": crop.astype(np.float64, order="K"), "wide rows": whole.astype(np.float64)}
    given["wide rows"] = given["wide rows"][tuple(slice(1, 1 + n) for n in x.shape)]
    if x.ndim == 4:
        given["wide pixels"] = np.ascontiguousarray(x.transpose(0, 2, 3, 1), np.float64).transpose(0, 3, 1, 2)
    entrance = double.program(x).entrances[0]
    for name, one in given.items():
        for _ in range(3):
            entrance.memory[...] = np.nan
            assert double(one).tobytes() == (x + x).tobytes(), name
        native = entrance.copier(one) is not None
        assert native or name in ("gaps", "backwards", "Fortran order"), name


def test_few_copies_of_other_strides_are_kept():
    x = np.zeros((2, 3, 40, 40), np.float32)
    program = foveal.compile(lambda x: x * 2.0).program(x[..., :30])
    for start in range(2 * MOST_WAYS):
        crop = np.zeros((2, 3, 40, 31 + start), np.float32)[..., :30]
        for _ in range(3):
            program.run(crop)
    assert 0 < len(program.entrances[0].others) <= MOST_WAYS


def test_float64_beyond_the_range_of_float32_is_refused_and_nan_is_not():
    run, x = foveal.compile(lambda x: x * 1.0), images(SHAPES["colour"]).astype(np.float64)
    x[1, 2, 3, 4] = 1e-300
    for _ in range(3):
        assert run(x)[1, 2, 3, 4] == 0
    for value in (np.nan, np.inf):
        x[1, 2, 3, 4] = value
        np.testing.assert_array_equal(run(x), x.astype(np.float32))
        with pytest.raises(NumericsError, match=rf"input of Identity holds {value} at index \(1, 2, 3, 4\)"):
            nn.Identity()(x)
    x[1, 2, 3, 4] = 3.5e38
    for function in (run, nn.Identity()):
        for _ in range(3):
            with pytest.raises(DataError, match=r"beyond 3\.4e38"):
                function(x)


def test_results_are_the_callers_own_and_arguments_are_free_after_the_call():
    x, y = images(SHAPES["colour"]), images(SHAPES["colour"], 1)
    function = foveal.compile(lambda x: x * 2.0)
    first = function(x)
    wanted = 2 * x
    x[:] = 0
    second = function(y)
    np.testing.assert_array_equal(first, wanted)
    first[:] = 7
    np.testing.assert_array_equal(second, 2 * y)
    np.testing.assert_array_equal(function(y), 2 * y)


def test_integers_are_copied_as_they_are():
    x = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 12, 17, 16))
    got = foveal.compile(lambda x: x)(x)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, x)


def test_threads_that_share_a_function_get_their_own_results():
    function = foveal.compile(lambda x: ops.relu(x) + 1.0)
    given = [images(SHAPES["colour"], seed) for seed in range(4)]
    wrong = []

    def call(x):
        wanted = np.maximum(x, 0) + 1
        wrong.extend(None for _ in range(20) if function(x).tobytes() != wanted.tobytes())

    threads = [threading.Thread(target=call, args=(x,)) for x in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("layout", ["C order", "channels last", "Fortran order"])
def test_a_model_that_is_given_nan_or_infinity_computes_nothing(value, layout):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    x = images(SHAPES["colour"])
    net(x)
    statistics, calls = net[1].running_mean.data, net.__dict__["_calls"]
    bad = x.copy()
    bad[3, 1, 4, 5] = value
    with pytest.raises(NumericsError, match=rf"input of Sequential holds {value} at index \(3, 1, 4, 5\) \(1 of"):
        net(dict(layouts(bad))[layout])
    np.testing.assert_array_equal(net[1].running_mean.data, statistics)
    assert net.__dict__["_calls"] == calls
    net(x)


def test_a_step_that_is_given_nan_trains_nothing():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 15 * 14, 4))
    optimizer = optim.Momentum(net.parameters(), lr=0.01, momentum=0.9)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer)
    x, labels = images(SHAPES["colour"]), np.arange(12) % 4
    step(x, labels)
    before = {name: value.copy() for name, value in net.state_dict().items()}
    bad = x.copy()
    bad[11, 2, 16, 15] = np.nan
    with pytest.raises(NumericsError, match=r"the input x holds nan at index \(11, 2, 16, 15\)"):
        step(bad, labels)
    assert step.steps == 1
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    step(x, labels)
    assert step.steps == 2


def test_only_what_is_named_is_checked():
    """foveal.compile computes with NaN."""
    x = images(SHAPES["matrix"])
    x[1, 2] = np.nan
    assert np.isnan(foveal.compile(lambda x: x)(x)).sum() == 1


def test_large_values_of_which_the_sum_overflows_are_finite():
    x = np.full(SHAPES["matrix"], 3e38, np.float32)
    assert nn.Identity()(x).tobytes() == x.tobytes()
    small = np.full((2, 3), 3e38, np.float32)
    assert nn.Identity()(small).tobytes() == small.tobytes()


def test_other_dtypes_are_refused_as_those_of_small_arrays_are():
    for shape in ((2, 3), SHAPES["matrix"]):
        with pytest.raises(ShapeError, match="dtype uint8; programs take float32"):
            nn.Identity()(np.zeros(shape, np.uint8))
    with pytest.raises(foveal.errors.DataError, match=r"beyond 3\.4e38"):
        nn.Identity()(np.full(SHAPES["matrix"], 1e200))


@pytest.mark.parametrize("shape", [(2, 3), SHAPES["matrix"]])
def test_float64_beyond_float32_is_no_call_and_the_error_names_the_argument(shape):
    x = np.ones(shape)
    large = x.copy()
    large[1, 2] = 1e300
    with pytest.raises(DataError, match="argument 1 holds numbers beyond"):
        foveal.compile(lambda x, y: x + y)(x, large)
    with pytest.raises(DataError, match=r"argument 0\['b'\] holds numbers beyond"):
        foveal.compile(lambda given: given["a"] + given["b"])({"a": x, "b": large})
    net = nn.Dropout(0.5).train()
    net(x)
    calls = net.__dict__["_calls"]
    with pytest.raises(DataError, match="the input of Dropout holds numbers beyond"):
        net(large)
    assert net.__dict__["_calls"] == calls


@pytest.mark.parametrize("shape", [(2, 3), SHAPES["matrix"]])
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", [np.asmatrix, np.ma.asarray, lambda x: x.view(np.recarray)])
def test_subclasses_of_arrays_are_taken_as_the_arrays_that_they_hold(kind, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for dtype in (np.float32, np.float64):
        assert nn.Identity()(kind(x.astype(dtype))).tobytes() == x.tobytes()
    x[1, 2] = np.nan
    given = kind(x)
    if isinstance(given, np.ma.MaskedArray):
        given[1, 2] = np.ma.masked
    with pytest.raises(NumericsError, match=r"holds nan at index \(1, 2\) \(1 of"):
        nn.Identity()(given)


@pytest.mark.parametrize("shards", [None, 2])
def test_a_training_step_on_float64_is_that_on_float32(shards):
    x, labels = images((8, 3, 16, 16)), np.arange(8) % 3

    def trained(x):
        nn.seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), 0.1), shards=shards)
        for _ in range(3):
            step(x, labels)
        return net, step

    (net, step), (wanted, _) = trained(x.astype(np.float64)), trained(x)
    weights = [p.numpy().tobytes() for p in net.parameters()]
    assert weights == [p.numpy().tobytes() for p in wanted.parameters()]
    if shards is None:
        assert step.program(x, labels).entrances[0].copier(x.astype(np.float64)) is not None
    for value, error, words in (
        (np.nan, NumericsError, "the input x holds nan"),
        (1e300, DataError, "the input x holds numbers"),
    ):
        damaged = x.astype(np.float64)
        damaged[5, 1, 2, 3] = value
        with pytest.raises(error, match=words):
            step(damaged, labels)
        assert [p.numpy().tobytes() for p in net.parameters()] == weights


def test_no_array_of_the_caller_is_kept():
    x = images(SHAPES["colour"])
    function = foveal.compile(lambda x: x * 2.0)
    before = sys.getrefcount(x)
    result = function(x)
    assert sys.getrefcount(x) == before
    # the name and the argument
    assert sys.getrefcount(result) == 2
    assert result.flags.owndata


def test_a_program_runs_again_on_the_arguments_that_it_has():
    """Timings do; the array that was given may be gone."""
    state = Variable(np.zeros(1))
    program = foveal.compile(lambda x: x + state).program(images(SHAPES["colour"]))
    x = images(SHAPES["colour"])
    program.run(x)
    wanted = x.copy()
    del x
    program.launch()
    np.testing.assert_array_equal(program.results[0], wanted)
