"""Operators and methods of Tensors and of Parameters mean what NumPy's do; where NumPy has none, PyTorch's."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import ArgumentError, FovealError, ShapeError
from foveal.ops.op import Type
from foveal.trace import trace

RNG = np.random.default_rng(0)
X = RNG.uniform(0.3, 3.0, (3, 4, 5)).astype("float32")
A, B = RNG.standard_normal((2, 4, 4)).astype("float32")

# what works on NumPy's arrays, on Tensors and on Parameters alike, of X
ALIKE = {
    "reflected": lambda x: 1.0 + 2.0 * x - (3 - x) / 4 + 5 / x,
    "number of NumPy": lambda x: np.float32(2) * x + np.float64(3) / x - np.int64(1),
    "powers": lambda x: x**2 + x**-1 + x**0.5 + x**3.7 + 2**x + x**x,
    "signs": lambda x: -x + +x + abs(x - 1.0),
    "comparisons": lambda x: 1.0 * (x < 1) + 2.0 * (x <= 1) + 4.0 * (x > 2) + 8.0 * (x >= 2),
    "equal": lambda x: 1.0 * (x == x) + 2.0 * (x != 2.0) + (x == 1.0),
    "logic": lambda x: 1.0 * ((x > 1) & (x < 2)) + 2.0 * ((x > 2) | ~(x > 1)) + ((x > 1) ^ (x > 2)),
    "product": lambda x: x @ x.reshape(3, 5, 4),
    "product with a vector": lambda x: (x @ x[0, 0]).sum() + x[0, :, 0] @ x,
    "transposed": lambda x: x.T,
    "transpose": lambda x: x.transpose(1, 2, 0) + x.transpose((1, 2, 0)),
    "swapaxes": lambda x: x.swapaxes(0, -1),
    "reshape": lambda x: x.reshape(2, -1) + x.reshape((2, -1)),
    "flatten": lambda x: x.flatten() + x.ravel(),
    "squeeze": lambda x: x[:, :1].squeeze() + x[:, :1].squeeze(axis=1),
    "sums": lambda x: x.sum(axis=0) + x.sum(0) + x.sum() + x.sum(axis=(0, 1), keepdims=True)[0],
    "means": lambda x: x.mean(axis=-1) + x.mean(),
    "extremes": lambda x: x.max(axis=1) - x.min(axis=1) + x.max() * x.min(),
    "spread": lambda x: x.var(axis=0) + x.std(axis=0, ddof=1) + x.std(),
    "prod": lambda x: x.prod(axis=1) + x.prod(axis=(0, 1), keepdims=True)[0],
    "places": lambda x: x.argmax(axis=1) + x.argmin(axis=1) + 100 * x.argmax(),
    "cumsum": lambda x: x.cumsum(axis=1).flatten() + x.cumsum(),
    "clip": lambda x: x.clip(0.5, 2),
    "round": lambda x: x.round(),
    "shape": lambda x: x * (x.ndim + x.size + len(x) + x.shape[1]),
    "iteration": lambda x: sum(part * i for i, part in enumerate(x)),
    "in place": lambda x: in_place(x * 1.0),
}
KEYS = [
    0,
    -1,
    (1, 2, 3),
    (slice(None), slice(None, None, 2)),
    (..., slice(None, None, -1)),
    (..., slice(4, 0, -2)),
    (slice(2, 0, -1), 1),
    (None, ..., 2, None),
    [2, 0, 0],
    (slice(None), np.array([[0, 1], [3, 2]])),
    (1, [3, 1, 2]),
    (..., [1, 2, 3]),
    (0, slice(1, 4, 2), slice(None)),
]


def in_place(x):
    x += 1
    x *= 2.0
    x -= x / 4
    return x


@pytest.fixture(scope="module")
def results():
    return foveal.compile(lambda x: {name: function(x) for name, function in ALIKE.items()}, threads=1)(X)


@pytest.mark.parametrize("name", ALIKE)
def test_tensors_and_parameters_compute_as_numpy(name, results):
    want = ALIKE[name](X.astype("float64"))
    np.testing.assert_allclose(results[name], want, rtol=2e-5, atol=1e-5)
    got = ALIKE[name](nn.Parameter(X))
    assert isinstance(got, np.ndarray | np.generic)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


def test_parts_and_their_gradients_are_numpys():
    parts = foveal.compile(lambda x: [x[key] * 1.0 for key in KEYS], threads=1)(X)
    for key, part in zip(KEYS, parts, strict=True):
        np.testing.assert_array_equal(part, X[key])
        np.testing.assert_array_equal(nn.Parameter(X)[key], X[key])
    slope = foveal.grad(lambda x: sum(i * (x[key] ** 2).sum() for i, key in enumerate(KEYS)), threads=1)(X)
    want = np.zeros(X.shape)
    for i, key in enumerate(KEYS):
        np.add.at(want, key, 2 * i * X[key])
    np.testing.assert_allclose(slope, want, rtol=1e-5)


def test_a_traced_index_takes_places_and_adds_their_gradients():
    places = np.array([2, -1, 0, 2], "int32")
    np.testing.assert_array_equal(foveal.compile(lambda x, i: x[i], threads=1)(X, places), X[places])
    slope = foveal.grad(lambda x, i: x[i].sum(), threads=1)(X, places)
    np.testing.assert_array_equal(slope[:, 0, 0], [1, 0, 3])
    outside = foveal.compile(lambda x, i: ops.take(x, i), threads=1)(X, np.array([3, -4], "int32"))
    assert np.isnan(outside).all()
    with pytest.raises(FovealError, match="index holds 3 to 3, and there are 3 places"):
        ops.take(X, np.array([3]))


def test_labels_are_compared_and_converted():
    scores, labels = X[0], np.array([1, 4, 0, 2], "int32")
    hits = foveal.compile(lambda x, y: ((x.argmax(axis=1) == y).mean(), y.astype("float32") / 2), threads=1)
    share, half = hits(scores, labels)
    assert share == np.mean(scores.argmax(1) == labels)
    np.testing.assert_array_equal(half, labels / 2)


def test_a_parameter_is_changed_in_place_and_counts_it():
    p, slope = nn.Parameter(A), np.ones_like(A)
    same, before = p, p.version
    p += 1
    p -= 0.5 * slope
    p[0] = 7
    p[:, 1] *= 2.0
    assert p is same
    assert p.version > before + 3
    want = A + 0.5
    want[0] = 7
    want[:, 1] *= 2
    np.testing.assert_allclose(p.data, want, rtol=1e-6)
    run = foveal.compile(lambda x: x @ p, threads=1)
    first = run(B)
    p *= 2
    np.testing.assert_allclose(run(B), 2 * first, rtol=1e-6)


def test_parts_of_a_parameter_are_copies_that_cannot_be_written():
    p = nn.Parameter(A)
    row, transposed, doubled = p[0], p.T, 2.0 * p
    p[...] = 0
    np.testing.assert_array_equal(row, A[0])
    np.testing.assert_array_equal(transposed, A.T)
    doubled[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 1


def test_lists_of_several_lengths_are_no_part_of_a_parameter():
    deep = 0
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ShapeError, match=r"has no part \[\[0\], \[1, 0\]\], whose lists are not of one length"):
        nn.Parameter(A)[[[0], [1, 0]]]
    with pytest.raises(ShapeError, match="whose lists are nested too deeply; give one list"):
        nn.Parameter(A)[deep]


def test_parameters_with_arrays_on_the_left_and_in_numpys_functions():
    p = nn.Parameter(A)
    np.testing.assert_array_equal(B * p - B @ p, B * A - B @ A)
    np.testing.assert_array_equal(np.abs(p), np.abs(A))
    np.testing.assert_array_equal(np.sum(p, axis=0) + np.mean(p) + np.max(p), A.sum(0) + A.mean() + A.max())
    np.testing.assert_array_equal(np.concatenate([p, p]), np.concatenate([A, A]))
    with pytest.raises(ShapeError, match="parameters is Parameter"):
        optim.SGD(p, lr=0.1)
    assert (np.float32(2) * p).dtype == np.float32
    assert (0.5 * p).dtype == np.float32
    assert p[p > 0].min() > 0
    assert nn.Parameter([2.5]).item() == float(nn.Parameter(2.5)) == 2.5
    assert int(nn.Parameter([3.0])) == 3
    assert p.astype("float64").dtype == np.float64
    assert p.numpy().flags.writeable
    assert p.tolist() == A.tolist()


def test_variables_are_equal_by_element_and_found_by_identity():
    p, q = nn.Parameter(A), nn.Parameter(A)
    assert (p == q).all()
    assert not (p != q).any()
    assert len({p, q, p}) == 2
    assert {p: 1}[p] == 1
    assert p != "a text"
    assert (p == None) is False  # noqa: E711
    assert bool(nn.Parameter(1.0))
    assert 7.0 not in p
    with pytest.raises(ShapeError, match=r"has 16 elements, so it is not one number; .* use `is`"):
        bool(p)
    with pytest.raises(ShapeError, match=r"equal of Parameter.* could not be broadcast .* `is` asks for"):
        p == nn.Parameter(np.ones(3))  # noqa: B015


REFUSED = {
    "//": (lambda x: x // 2, ArgumentError, r"write ops.floor\(a / b\)"),
    "%": (lambda x: x % 2, ArgumentError, r"write a - b \* ops.floor"),
    "text": (lambda x: x + "a", ArgumentError, "add: 'a' is no array and no number"),
    "float": (float, ShapeError, "a traced value has no number yet"),
    "int": (int, ShapeError, "a traced value has no number yet"),
    "item": (lambda x: x.item(), ShapeError, "a traced value has no number yet"),
    "np.sum": (np.sum, ShapeError, "np.sum: a traced value has no numbers yet, .* use ops.sum"),
    "dim": (lambda x: x.sum(dim=1), ArgumentError, r"'dim' \(did you mean 'axis'\?\)"),
    "keepdim": (lambda x: x.mean(1, keepdim=True), ArgumentError, r"'keepdim' \(did you mean 'keepdims'\?\)"),
    "two names": (lambda x: x.sum(axis=1, axes=1), ShapeError, "axis and axes are two names of one argument"),
    "axis": (lambda x: x.max(axis=5), ShapeError, "axis 5 is not one of the 3 axes"),
    "squeeze": (lambda x: x.squeeze(0), ShapeError, "axis 0 of shape .* has to have size 1"),
    "size": (lambda x: x.reshape(x.size(0), -1), ArgumentError, r"write x.shape, or x.shape\[0\]"),
    "view": (lambda x: x.view(-1), AttributeError, r"has no 'view'; write x.reshape"),
    "astype": (lambda x: x.astype("float64"), ShapeError, "is float32 or int32, it cannot be float64"),
    "@": (lambda x: x @ x, ShapeError, r"a @ b: 5 columns meet 4 rows"),
    "array": (lambda x: x * A, ShapeError, "array of type ndarray that is no argument"),
    "many places": (lambda x: x.flatten()[list(range(0, 60, 2)) * 10], ShapeError, "use ops.take"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_one_clear_error(name):
    function, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        trace(function, Type(X.shape))


def set_part(x):
    x[0] = 1
    return x


def change(p):
    p += 1
    return p


def test_nothing_is_written_in_a_traced_function():
    p = nn.Parameter(A)
    with pytest.raises(ShapeError, match=r"cannot be changed in place; .* ops.where"):
        trace(set_part, Type(X.shape))
    for function in (set_part, change):
        with pytest.raises(ShapeError, match="is changed in place in a function that is traced"):
            trace(lambda x, function=function: x + function(p)[0, 0], Type(X.shape))
    np.testing.assert_array_equal(p.data, A)


def test_einsum_is_numpys_and_refuses_what_it_does_not_take():
    right = {"ij,jk,kl->il": (A, B, A), "i j , j": (A, B[0]), "ii": (A,), "abc,cd->dab": (X, X[0].T)}
    for text, arrays in right.items():
        got = foveal.compile(lambda *xs, text=text: ops.einsum(text, *xs), threads=1)(*arrays)
        np.testing.assert_allclose(got, np.einsum(text, *arrays), rtol=1e-4, atol=1e-5)
    for text, words in {
        "...i->i": "ellipsis",
        "ij->ik": "'k' stands after '->'",
        "i->i": "names 1 axes, the array has shape",
        "ij,jk": "names 2 arrays, 1 are given",
        "i1": "has to be letters",
    }.items():
        with pytest.raises(ShapeError, match=words):
            ops.einsum(text, A)


def test_split_gives_numpys_parts():
    for sections in (2, [1, 3]):
        got = foveal.compile(lambda x, s=sections: ops.split(x, s, axis=1), threads=1)(X)
        for part, want in zip(got, np.split(X, sections, axis=1), strict=True):
            np.testing.assert_array_equal(part, want)
    with pytest.raises(ShapeError, match="4 places of axis 1 cannot be cut into 3 equal parts"):
        ops.split(X, 3, axis=1)
    with pytest.raises(ShapeError, match="have to rise within 0 and 3"):
        ops.split(X, [2, 1])


# at the kinks, where one-sided slopes differ or powers are undefined
KINKS = {
    "abs": (lambda x: abs(x).sum(), lambda x: x.abs().sum()),
    "norm": (lambda x: ops.norm(x * 0.0) + ops.norm(x, axis=1).sum(), lambda x: (x * 0).norm() + x.norm(dim=1).sum()),
    "norm 1": (lambda x: ops.norm(x, ord=1), lambda x: x.norm(1)),
    "norm inf": (lambda x: ops.norm(x, ord=np.inf), lambda x: x.norm(np.inf)),
    "std": (
        lambda x: (x * 0.0).std() + x.std(axis=1).sum(),
        lambda x: (x * 0).std(correction=0) + x.std(1, False).sum(),
    ),
    "square": (lambda x: (x**2 + x**1 + x**0).sum(), lambda x: (x**2 + x**1 + x**0).sum()),
    "exponent": (lambda x: ops.power(x * x, x * 0.0 + 2.0).sum(), lambda x: ((x * x) ** (x * 0 + 2.0)).sum()),
    "prod": (lambda x: x.prod(axis=0).sum(), lambda x: x.prod(0).sum()),
    "min": (lambda x: x.min(), lambda x: x.amin()),
}


@pytest.mark.parametrize("name", KINKS)
def test_gradients_at_kinks_are_pytorchs(name, torch):
    ours, theirs = KINKS[name]
    x = np.array([[0.0, -2.0, 3.0, -3.0], [0.0, 0.0, -3.0, 1.0]], "float32")
    tensor = torch.tensor(x, requires_grad=True)
    theirs(tensor).backward()
    np.testing.assert_allclose(foveal.grad(ours, threads=1)(x), tensor.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_an_exponent_that_no_float_holds_is_one_clear_error():
    for call in (lambda: ops.power(A, 10**400), lambda: foveal.compile(lambda x: x ** -(10**400))(A)):
        with pytest.raises(ShapeError, match="exponent is a number of 1329 bits, it has to be a finite number"):
            call()


def test_angles_and_powers_are_right_to_the_last_digits():
    x = np.concatenate([RNG.uniform(-10, 10, 5000), RNG.uniform(-1e6, 1e6, 5000)]).astype("float32")
    base, exponent = (np.abs(x[:5000]) + 1e-3), RNG.uniform(-20, 20, 5000).astype("float32")
    run = foveal.compile(lambda x, a, b: (ops.sin(x), ops.cos(x), ops.power(a, b)), threads=1)
    sine, cosine, power = run(x, base, exponent)
    assert abs(sine - np.sin(x.astype("f8"))).max() < 1.5e-7
    assert abs(cosine - np.cos(x.astype("f8"))).max() < 1.5e-7
    want = base.astype("f8") ** exponent
    assert abs(power / want - 1).max() < 4e-7
    values = np.array([0.0, 1, -1, 2, -2, 0.5, -0.5, np.inf, np.nan, 3, -3], "float32")
    a, b = (v.ravel() for v in np.meshgrid(values, values[np.isfinite(values)]))
    with np.errstate(all="ignore"):
        want = np.power(a.astype("f8"), b)
    np.testing.assert_allclose(foveal.compile(ops.power, threads=1)(a, b), want, rtol=1e-6)
    # Of the largest numbers, too, only the part of a turn counts.
    far = np.array([2e6, -3e9, 1.5e20, 3e38], "float32")
    np.testing.assert_allclose(foveal.compile(ops.sin, threads=1)(far), np.sin(far.astype("f8")), atol=1.5e-7)


def test_a_regulariser_is_written_as_its_formula():
    """In a step, and in a gradient; Python's sum begins with 0."""
    nn.seed(0)
    net, entropy = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), nn.CrossEntropyLoss()
    images, labels = X[0], np.array([0, 2, 1, 1])

    def loss(out, y):
        return entropy(out, y) + 0.1 * sum((p**2).sum() + abs(p).mean() for p in net.parameters())

    plain = foveal.grad(lambda x, y: entropy(net(x), y), wrt=net, threads=1)(images, labels)
    slopes = foveal.grad(lambda x, y: loss(net(x), y), wrt=net, threads=1)(images, labels)
    before = net.state_dict()
    for name, p in net.named_parameters():
        np.testing.assert_allclose(
            slopes[name] - plain[name], 0.2 * p + 0.1 * np.sign(p) / p.size, rtol=1e-4, atol=1e-6
        )
    foveal.compile_step(net, loss, optim.SGD(net.parameters(), lr=0.5), threads=1)(images, labels)
    for name, p in net.named_parameters():
        np.testing.assert_allclose(p.data, before[name] - 0.5 * slopes[name], rtol=1e-5, atol=1e-6)


def test_a_forgotten_return_and_a_mask_are_named():
    x = np.ones((2, 3), "float32")
    with pytest.raises(ShapeError, match="returned None"):
        foveal.compile(lambda x: None)(x)
    with pytest.raises(ShapeError, match=r"for masks use ops\.where"):
        foveal.compile(lambda x: x[x > 0])(x)
