"""Losses with a margin and of distributions, and distances of vectors: values and gradients against PyTorch."""

import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.errors import DataError, ShapeError

LIMIT = 1e-5
K = 7
WEIGHT = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 0.7, 1.3], np.float32)


def drawn(kind, shape, seed):
    """An input of a loss. kind: what it holds."""
    rng = np.random.default_rng(seed)
    found = {
        "numbers": lambda: 2.0 * rng.standard_normal(shape),
        "signs": lambda: rng.choice([-1.0, 1.0], shape),
        "shares": lambda: rng.uniform(0.02, 0.98, shape),
        "some zeros": lambda: np.maximum(rng.uniform(-0.3, 1.0, shape), 0),
        "counts": lambda: rng.poisson(2.0, shape),
        "positive": lambda: rng.uniform(0.2, 3.0, shape),
    }[kind]()
    return np.asarray(found, np.float32)


# (class, options, (kind, shape) of each input)
LOSSES = [
    ("HingeEmbeddingLoss", {}, ("numbers", (5, 4)), ("signs", (5, 4))),
    ("HingeEmbeddingLoss", {"margin": 0.4, "reduction": "none"}, ("numbers", (5,)), ("signs", (5,))),
    ("SoftMarginLoss", {"reduction": "sum"}, ("numbers", (5, 4)), ("signs", (5, 4))),
    ("MultiLabelSoftMarginLoss", {}, ("numbers", (5, K)), ("shares", (5, K))),
    ("MultiLabelSoftMarginLoss", {"weight": WEIGHT, "reduction": "none"}, ("numbers", (5, K)), ("shares", (5, K))),
    ("MarginRankingLoss", {"margin": 0.3}, ("numbers", (9,)), ("numbers", (9,)), ("signs", (9,))),
    ("MarginRankingLoss", {"reduction": "none"}, ("numbers", (3, 4)), ("numbers", (3, 4)), ("signs", (3, 4))),
    ("CosineEmbeddingLoss", {"margin": 0.2}, ("numbers", (6, 5)), ("numbers", (6, 5)), ("signs", (6,))),
    ("CosineEmbeddingLoss", {"reduction": "sum"}, ("numbers", (6, 5)), ("numbers", (6, 5)), ("signs", (6,))),
    ("CosineEmbeddingLoss", {}, ("numbers", (5,)), ("numbers", (5,)), ("signs", ())),
    ("TripletMarginLoss", {}, *[("numbers", (6, 5))] * 3),
    ("TripletMarginLoss", {"p": 1.0, "margin": 0.5, "swap": True, "reduction": "none"}, *[("numbers", (6, 5))] * 3),
    ("TripletMarginLoss", {"p": 3.0, "reduction": "sum"}, *[("numbers", (6, 5))] * 3),
    ("KLDivLoss", {}, ("numbers", (5, K)), ("some zeros", (5, K))),
    ("KLDivLoss", {"reduction": "batchmean"}, ("numbers", (5, K)), ("some zeros", (5, K))),
    ("KLDivLoss", {"reduction": "sum", "log_target": True}, ("numbers", (5, K)), ("numbers", (5, K))),
    ("PoissonNLLLoss", {}, ("numbers", (5, 4)), ("counts", (5, 4))),
    ("PoissonNLLLoss", {"log_input": False, "full": True}, ("positive", (5, 4)), ("counts", (5, 4))),
    ("PoissonNLLLoss", {"full": True, "reduction": "none"}, ("numbers", (5, 4)), ("counts", (5, 4))),
    ("GaussianNLLLoss", {}, ("numbers", (5, 4)), ("numbers", (5, 4)), ("positive", (5, 4))),
    ("GaussianNLLLoss", {"full": True, "reduction": "sum"}, *[("numbers", (5,))] * 2, ("positive", (5,))),
    ("PairwiseDistance", {}, ("numbers", (6, 5)), ("numbers", (6, 5))),
    ("PairwiseDistance", {"p": 1.0, "keepdim": True}, ("numbers", (6, 5)), ("numbers", (6, 5))),
    ("PairwiseDistance", {"p": float("inf")}, ("numbers", (2, 6, 5)), ("numbers", (2, 6, 5))),
    ("CosineSimilarity", {}, ("numbers", (6, 5, 2)), ("numbers", (6, 5, 2))),
    ("CosineSimilarity", {"dim": -1, "eps": 1e-3}, ("numbers", (6, 5)), ("numbers", (6, 5))),
]


def close(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.max(abs(got - want)) <= LIMIT * np.max(abs(want))


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize(("name", "options", "inputs"), [(n, o, i) for n, o, *i in LOSSES], ids=str)
def test_values_and_gradients_are_pytorchs(name, options, inputs, torch):
    arrays = [drawn(kind, shape, seed) for seed, (kind, shape) in enumerate(inputs)]
    given = {k: torch.tensor(v).double() if k == "weight" else v for k, v in options.items()}
    ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**given)
    # layers of two inputs are called by their forward here
    call = ours.forward if isinstance(ours, nn.Module) else ours
    # PyTorch's gradients in such targets are none, or NaN where they are 0
    smooth = [kind not in ("signs", "some zeros", "counts") for kind, _ in inputs]
    doubles = [torch.tensor(a, dtype=torch.float64, requires_grad=s) for a, s in zip(arrays, smooth, strict=True)]
    want = theirs(*doubles)
    cotangent = np.asarray(np.random.default_rng(9).standard_normal(tuple(want.shape)), np.float32)
    want.backward(torch.tensor(cotangent, dtype=torch.float64))
    close(foveal.compile(call)(*arrays), want.detach().numpy())
    both = foveal.value_and_grad(lambda c, *a: (call(*a) * c).sum(), list(range(1, 1 + sum(smooth))))
    _, slopes = both(cotangent, *arrays)
    for slope, double in zip(slopes, doubles, strict=False):
        close(slope, double.grad.numpy())


@pytest.mark.parametrize("options", [{}, {"p": 2, "margin": 0.5}, {"weight": WEIGHT, "reduction": "none"}])
def test_multi_margin(options, torch):
    x, labels = drawn("numbers", (9, K), 0), np.random.default_rng(1).integers(0, K, 9).astype(np.int32)
    given = {k: torch.tensor(v).double() if k == "weight" else v for k, v in options.items()}
    double = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    want = torch.nn.MultiMarginLoss(**given)(double, torch.tensor(labels, dtype=torch.int64))
    c = np.asarray(np.random.default_rng(2).standard_normal(tuple(want.shape)), np.float32)
    want.backward(torch.tensor(c, dtype=torch.float64))
    ours = nn.MultiMarginLoss(**options)
    close(foveal.compile(ours)(x, labels), want.detach().numpy())
    close(ours(x, labels), want.detach().numpy())
    close(foveal.grad(lambda a, t, c: (ours(a, t) * c).sum())(x, labels, c), double.grad.numpy())


def test_arrays_are_computed_with_at_once():
    a, b, t = drawn("numbers", (6, 5), 0), drawn("numbers", (6, 5), 1), drawn("signs", (6,), 2)
    for loss, inputs in ((nn.CosineEmbeddingLoss(), (a, b, t)), (nn.TripletMarginLoss(), (a, b, -a))):
        close(loss(*inputs), foveal.compile(loss)(*inputs))


def test_vectors_of_length_0_have_finite_gradients():
    zero = np.zeros((2, 3), np.float32)
    for layer in (nn.CosineSimilarity(), nn.PairwiseDistance(eps=0.0)):
        _, slopes = foveal.value_and_grad(lambda a, b, f=layer.forward: f(a, b).sum(), [0, 1])(zero, zero)
        assert all(np.isfinite(slope).all() for slope in slopes)


def test_a_step_with_a_loss_of_signs():
    nn.seed(0)
    net = nn.Linear(5, 1)
    step = foveal.compile_step(net, nn.SoftMarginLoss(), optim.SGD(net.parameters(), lr=0.5))
    x = drawn("numbers", (20, 5), 0)
    t = np.sign(x[:, :1])
    losses = [step(x, t).loss for _ in range(20)]
    assert losses[-1] < 0.3 * losses[0]
    with pytest.raises(DataError, match="SoftMarginLoss: a target is 0; targets are 1 or -1"):
        step(x, 0 * t)


X, T = np.ones((4, 3), np.float32), np.ones(4, np.float32)
LABELS = np.zeros(4, np.int32)
REFUSED = [
    (lambda: nn.HingeEmbeddingLoss()(X, 0 * X), DataError, "a target is 0; targets are 1 or -1"),
    (lambda: nn.MarginRankingLoss()(T, T, 2 * T), DataError, "a target is 2; targets are 1 or -1"),
    (lambda: nn.MarginRankingLoss()(X, X, T), ShapeError, r"the target has shape \(4,\), it has to be \(4, 3\)"),
    (lambda: nn.MarginRankingLoss()(X, T, T), ShapeError, "they have to be equal"),
    (lambda: nn.CosineEmbeddingLoss()(X, X, LABELS), ShapeError, "the target holds integers"),
    (lambda: nn.CosineEmbeddingLoss(margin=2.0), ShapeError, "margin is 2.0, it has to be between -1 and 1"),
    (lambda: nn.CosineEmbeddingLoss()(X[None], X[None], T), ShapeError, r"takes vectors \[N, D\] or \[D\]"),
    (lambda: nn.TripletMarginLoss(margin=0.0), ShapeError, "margin is 0.0 and p is 2.0, both have to be above 0"),
    (lambda: nn.TripletMarginLoss()(X, X, T), ShapeError, "they have to be equal"),
    (lambda: nn.MultiMarginLoss(p=3), ShapeError, "p is 3, it has to be 1 or 2"),
    (lambda: nn.MultiMarginLoss()(X, LABELS + 3), DataError, "label"),
    (lambda: nn.MultiMarginLoss()(X[..., None], LABELS), ShapeError, r"takes an output \[N, classes\]"),
    (lambda: nn.MultiLabelSoftMarginLoss(WEIGHT)(X, X), ShapeError, "weight has shape .*, the output 3 classes"),
    (lambda: nn.MultiLabelSoftMarginLoss()(X, 2 * X), DataError, "give 0 to 1"),
    (lambda: nn.KLDivLoss("average"), ShapeError, "reduction is 'average'; choose one of mean, sum, none, batchmean"),
    (lambda: nn.KLDivLoss()(X, -X), DataError, "a target is -1; targets are 0 or more"),
    (lambda: nn.MSELoss("batchmean"), ShapeError, "choose one of mean, sum, none$"),
    (lambda: nn.PoissonNLLLoss()(X, -X), DataError, "targets are 0 or more"),
    (lambda: nn.PoissonNLLLoss(eps=0.0), ShapeError, "eps is 0.0"),
    (lambda: nn.GaussianNLLLoss()(X, X, T), ShapeError, "they have to be equal"),
    (lambda: nn.PairwiseDistance(0.0), ShapeError, "p is 0.0, it has to be above 0"),
    (lambda: nn.CosineSimilarity(eps=0.0), ShapeError, "eps is 0.0"),
    (lambda: foveal.compile(nn.CosineSimilarity().forward)(X, T), ShapeError, "the inputs have shapes"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_what_cannot_be_meant_is_one_clear_error(call, error, words):
    with pytest.raises(error, match=words):
        call()
