"""Losses and their gradients against PyTorch, and against plain second implementations where it has none."""

import math

import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.errors import DataError, ShapeError

LIMIT = 1e-5
K = 7
WEIGHT = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 0.7, 1.3], np.float32)


def labels(shape, seed=0, ignored=None):
    drawn = np.random.default_rng(seed).integers(0, K, shape).astype(np.int32)
    if ignored is not None:
        drawn.flat[::3] = ignored
    return drawn


def logits(shape, seed=1, scale=2.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def probabilities(shape, seed=2):
    return np.random.default_rng(seed).dirichlet(np.ones(shape[1]), shape[0]).astype(np.float32)


def shares(shape, seed=3):
    return np.random.default_rng(seed).uniform(0.02, 0.98, shape).astype(np.float32)


def close(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.max(abs(got - want)) <= LIMIT * np.max(abs(want))


def check(torch, ours, theirs, x, target):
    """Values, and the gradient of their sum weighted at random, native in float32 against torch in float64."""
    double = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    kind = torch.int64 if target.dtype == np.int32 else torch.float64
    want = theirs(double, torch.tensor(target, dtype=kind))
    cotangent = logits(tuple(want.shape), seed=5)
    want.backward(torch.tensor(cotangent, dtype=torch.float64))

    def weighted(a, t, c):
        return (ours(a, t) * c).sum()

    value = foveal.compile(ours)(x, target)
    gradient = foveal.grad(weighted)(x, target, cotangent)
    close(value, want.detach().numpy())
    close(gradient, double.grad.numpy())


# logits' shape, options, the ignored label
ENTROPIES = [
    ((9, K), {}, None),
    ((9, K), {"reduction": "sum", "label_smoothing": 0.1}, None),
    ((9, K), {"weight": WEIGHT, "label_smoothing": 0.2}, 2),
    ((9, K), {"weight": WEIGHT, "reduction": "none"}, -100),
    ((3, K, 4), {"label_smoothing": 0.3, "reduction": "none"}, -1),
    ((2, K, 3, 5), {"weight": WEIGHT}, 255),
    ((2, K, 3, 2), {}, None),
]


@pytest.mark.parametrize(("shape", "options", "ignored"), ENTROPIES)
def test_cross_entropy(torch, shape, options, ignored):
    ignore = {} if ignored is None else {"ignore_index": ignored}
    ours = nn.CrossEntropyLoss(**options, **ignore)
    given = {k: torch.tensor(v).double() if k == "weight" else v for k, v in options.items()}
    theirs = torch.nn.CrossEntropyLoss(**given, **ignore)
    check(torch, ours, theirs, logits(shape), labels((shape[0], *shape[2:]), ignored=ignored))


@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT, "label_smoothing": 0.1}, {"reduction": "none"}])
def test_cross_entropy_of_probabilities(torch, options):
    given = {k: torch.tensor(v).double() if k == "weight" else v for k, v in options.items()}
    theirs = torch.nn.CrossEntropyLoss(**given)
    check(torch, nn.CrossEntropyLoss(**options), theirs, logits((6, K)), probabilities((6, K)))


@pytest.mark.parametrize(("options", "ignored"), [({}, None), ({"weight": WEIGHT}, 3)])
def test_negative_log_likelihood(torch, options, ignored):
    ignore = {} if ignored is None else {"ignore_index": ignored}
    given = {k: torch.tensor(v).double() for k, v in options.items()}
    theirs = torch.nn.NLLLoss(**given, **ignore)
    ours = nn.NLLLoss(**options, **ignore)
    check(torch, ours, theirs, -abs(logits((2, K, 3))), labels((2, 3), ignored=ignored))


@pytest.mark.parametrize(
    "options", [{}, {"pos_weight": WEIGHT, "reduction": "none"}, {"weight": WEIGHT, "reduction": "sum"}]
)
def test_binary_cross_entropy_with_logits(torch, options):
    given = {k: v if isinstance(v, str) else torch.tensor(v).double() for k, v in options.items()}
    theirs = torch.nn.BCEWithLogitsLoss(**given)
    check(torch, nn.BCEWithLogitsLoss(**options), theirs, logits((5, K)), shares((5, K)))


PAIRS = [
    ("MSELoss", {}),
    ("MSELoss", {"reduction": "none"}),
    ("L1Loss", {}),
    ("HuberLoss", {"delta": 0.8}),
    ("SmoothL1Loss", {"beta": 0.4}),
    ("SmoothL1Loss", {"beta": 0.0, "reduction": "sum"}),
]


@pytest.mark.parametrize(("name", "options"), PAIRS)
def test_distances(torch, name, options):
    ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
    check(torch, ours, theirs, logits((4, 3, 2)), logits((4, 3, 2), seed=4))


def test_binary_cross_entropy(torch):
    x, target = shares((5, 6)), shares((5, 6), seed=4)
    check(torch, nn.BCELoss(), torch.nn.BCELoss(), x, target)
    edges = np.array([[0.0, 1.0, 0.0, 1.0]], np.float32)
    found = foveal.compile(nn.BCELoss(reduction="none"))(edges, edges[:, ::-1].copy())
    assert (found > 60).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_focal_loss_is_its_equation(torch, gamma):
    def equation(x, target):
        p = torch.softmax(x, 1)[torch.arange(len(x)), target]
        alpha = torch.tensor(WEIGHT).double()[target]
        return (-alpha * (1 - p) ** gamma * torch.log(p)).mean()

    check(torch, nn.FocalLoss(gamma, WEIGHT), equation, logits((8, K)), labels((8,)))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, None)])
def test_binary_focal_loss_is_its_equation(torch, gamma, alpha):
    def equation(x, target):
        p = torch.where(target == 1, torch.sigmoid(x), torch.sigmoid(-x))
        share = 1.0 if alpha is None else torch.where(target == 1, alpha, 1 - alpha)
        return (-share * (1 - p) ** gamma * torch.log(p)).mean()

    target = (shares((6, 5)) > 0.5).astype(np.float32)
    check(torch, nn.BinaryFocalLoss(gamma, alpha), equation, logits((6, 5)), target)


def test_focal_loss_without_focus_is_cross_entropy():
    x, target = logits((5, K)), labels((5,))
    focal, entropy = (foveal.compile(f)(x, target) for f in (nn.FocalLoss(0.0), nn.CrossEntropyLoss()))
    assert focal == pytest.approx(entropy, rel=1e-6)


EXTREME = [nn.CrossEntropyLoss(label_smoothing=0.1), nn.FocalLoss(), nn.FocalLoss(0.5), nn.FocalLoss(1.5)]


@pytest.mark.parametrize("loss", EXTREME, ids=lambda loss: loss.name)
def test_logits_of_any_size(loss):
    x = np.random.default_rng(0).choice([-1e4, 0.0, 1e4], (16, K)).astype(np.float32)
    value, gradient = foveal.value_and_grad(loss)(x, labels((16,)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.BinaryFocalLoss(1.5)])
def test_binary_logits_of_any_size(loss):
    x = np.array([[-1e4, -100, -30, 0, 30, 100, 1e4]] * 2, np.float32)
    target = np.array([[0.0] * 7, [1.0] * 7], np.float32)
    value, gradient = foveal.value_and_grad(loss)(x, target)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert gradient[0, 6] > 0 > gradient[1, 0]


def test_class_balanced_weights():
    counts = [10, 500, 4000]
    plain = np.array([(1 - 0.999) / (1 - 0.999**n) for n in counts])
    found = nn.class_balanced_weights(counts, 0.999)
    np.testing.assert_allclose(found, plain * 3 / plain.sum(), rtol=1e-6)
    np.testing.assert_allclose(nn.class_balanced_weights(counts, 0.0), 1, rtol=1e-6)
    inverse = 1 / np.array(counts)
    towards = nn.class_balanced_weights(counts, 1 - 1e-12)
    np.testing.assert_allclose(towards, inverse * 3 / inverse.sum(), rtol=1e-4)


def test_a_step_with_weights_and_ignored_labels_has_the_same_bits_on_two_threads():
    def train(threads):
        nn.seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, K, 1))
        loss = nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=9, label_smoothing=0.1)
        step = foveal.compile_step(net, loss, optim.SGD(net.parameters(), lr=0.1), threads=threads)
        x, target = logits((4, 1, 8, 8)), labels((4, 6, 6), ignored=9)
        losses = [step(x, target).loss for _ in range(3)]
        return losses, net.state_dict()

    (alone, first), (together, second) = train(1), train(2)
    assert alone == together
    assert alone[-1] < alone[0]
    assert all((first[name] == second[name]).all() for name in first)


def step_with(loss, outputs=K):
    net = nn.Sequential(nn.Linear(4, outputs))
    return foveal.compile_step(net, loss, optim.SGD(net.parameters(), lr=0.1))


X = np.ones((3, 4), np.float32)
WRONG_TARGETS = [
    (nn.CrossEntropyLoss(), np.array([0, 7, 1], np.int32), "label 7 at position 1 is not one of"),
    (nn.CrossEntropyLoss(ignore_index=9), np.array([9, -1, 1], np.int32), "label -1 at position 1"),
    (nn.CrossEntropyLoss(ignore_index=2), np.full(3, 2, np.int32), "every label of the batch is 2"),
    (nn.BCEWithLogitsLoss(), np.full((3, K), 1.5, np.float32), "a target is 1.5; targets lie"),
]


@pytest.mark.parametrize(("loss", "target", "words"), WRONG_TARGETS)
def test_targets_that_cannot_be_meant(loss, target, words):
    with pytest.raises(DataError, match=words):
        step_with(loss)(X, target)


WRONG_SHAPES = [
    (nn.MSELoss(), (3, 1), (3,), "the output has shape \\(3, 1\\), the target \\(3,\\)"),
    (nn.CrossEntropyLoss(WEIGHT), (3, 5), None, "weight has 7 numbers, the logits 5 classes"),
    (nn.CrossEntropyLoss(ignore_index=1), (3, K), (3, K), "is about labels, the target holds"),
    (nn.FocalLoss(), (3, K, 2), None, "one integer label for each place"),
    (nn.NLLLoss(), (3, K), (3, K), "labels of shape \\(3, 7\\)"),
    (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), (3, 5), (3, 5), "does not broadcast to the target's"),
]


@pytest.mark.parametrize(("loss", "shape", "target", "words"), WRONG_SHAPES)
def test_shapes_that_do_not_fit(loss, shape, target, words):
    given = labels((3,)) if target is None else np.ones(target, np.float32)
    with pytest.raises(ShapeError, match=words):
        foveal.compile(loss)(np.ones(shape, np.float32), given)


def test_integers_are_no_predictions():
    with pytest.raises(ShapeError, match="the target holds integers, it has to be float32"):
        foveal.compile(nn.MSELoss())(X, np.ones((3, 4), np.int32))
    with pytest.raises(ShapeError, match="labels have to be integers, and logits float32"):
        foveal.compile(nn.NLLLoss())(np.ones((3, K), np.int32), labels((3,)))


REFUSED = [
    (lambda: nn.MSELoss(reduction="average"), "reduction is 'average'; choose one of mean, sum"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=1.5), "label_smoothing is 1.5, it has to be"),
    (lambda: nn.CrossEntropyLoss(weight=[1.0, -1.0]), "weight holds -1"),
    (lambda: nn.CrossEntropyLoss(weight=[[1.0]]), "it has to be \\[classes\\]"),
    (lambda: nn.FocalLoss(gamma=-1.0), "gamma is -1.0, it has to be 0 or more"),
    (lambda: nn.BinaryFocalLoss(alpha=1.5), "alpha is 1.5, it has to be between 0 and 1"),
    (lambda: nn.HuberLoss(delta=0.0), "delta is 0.0"),
    (lambda: nn.class_balanced_weights([3], 1.0), "beta is 1.0, it has to be below 1"),
]


@pytest.mark.parametrize(("build", "words"), REFUSED)
def test_hyper_parameters_that_mean_nothing(build, words):
    with pytest.raises(ShapeError, match=words):
        build()


def test_a_class_without_images_has_no_weight():
    with pytest.raises(DataError, match="the number of images of each class, at least 1"):
        nn.class_balanced_weights([3, 0])
    assert math.isclose(float(nn.class_balanced_weights([3, 5]).sum()), 2.0, rel_tol=1e-6)
