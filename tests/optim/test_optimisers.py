"""Optimisers: 100 steps against PyTorch or a second implementation in NumPy, published values, groups, averages,
errors.
"""

import json

import numpy as np
import pytest
from shared import VECTORS

import foveal
from foveal import nn, ops, optim
from foveal.errors import ArgumentError, NumericsError, ShapeError, StateError
from foveal.optim import schedule
from foveal.trace import current

SHAPES = {"w": (4, 6), "b": (4,), "f": (3, 2, 2, 2), "s": ()}
STEPS = 100
LIMIT = 1e-6

RNG = np.random.default_rng(0)
START = {name: RNG.uniform(0.5, 1.0, shape).astype("f4") for name, shape in SHAPES.items()}
CURVE = {name: RNG.uniform(0.1, 1.0, shape).astype("f4") for name, shape in SHAPES.items()}
FAR = {name: RNG.uniform(3.0, 5.0, shape).astype("f4") for name, shape in SHAPES.items()}
SIDES = np.where(np.arange(STEPS) % 5 == 3, -1, 1) * RNG.uniform(0.8, 1.2, STEPS).astype("f4")
NOTHING = np.zeros(1, "f4")


class Problem(nn.Module):
    """The sum of c (p - x a)^2 / 2 over a matrix, a vector, filters and a scalar, with another x in each step.

    No gradient comes near 0: there, methods that divide by its size would make much of rounding.
    """

    def __init__(self):
        for name, value in START.items():
            setattr(self, name, nn.Parameter(value))
            setattr(self, f"{name}_curve", nn.Buffer(CURVE[name]))
            setattr(self, f"{name}_far", nn.Buffer(FAR[name]))

    def forward(self, x):
        lift, total = current().lift, 0.0
        for name, shape in SHAPES.items():
            p, c, a = (lift(getattr(self, f"{name}{part}")) for part in ("", "_curve", "_far"))
            away = p - a * x.reshape(*[1] * len(shape))
            total = ops.sum(c * away * away) * 0.5 + total
        return total.reshape(1)


def loss(y, target):
    return ops.sum(y - target)


def batch(step):
    return SIDES[step : step + 1].astype("f4"), NOTHING


def gradients(p, step):
    """Those of the problem in that step, in the precision of p."""
    return {name: CURVE[name] * (p[name] - SIDES[step] * FAR[name]) for name in p}


def values(net):
    return {p.name: p.data.copy() for p in net.parameters()}


def trained(make, steps=STEPS):
    """The parameters after training, by name, and the optimiser."""
    net = Problem()
    optimizer = make(net.parameters())
    step = foveal.compile_step(net, loss, optimizer, threads=1)
    for i in range(steps):
        step(*batch(i))
    return values(net), optimizer


def trained_by_torch(torch, make, after=lambda named: None, steps=STEPS, penalty=None):
    """The same in float64; `make` takes the parameters by name, `after` is called before each step of the optimiser."""
    named = {k: torch.nn.Parameter(torch.from_numpy(v.astype("f8"))) for k, v in START.items()}
    descent, *schedulers = make(named)
    for i in range(steps):
        found = gradients({k: p.detach().numpy() for k, p in named.items()}, i)
        for name, p in named.items():
            p.grad = torch.as_tensor(found[name])
            if penalty is not None:
                p.grad = p.grad + penalty(p.detach())
        after(named)
        descent.step()
        for scheduler in schedulers:
            scheduler.step()
    return {k: p.detach().numpy() for k, p in named.items()}


def close(ours, theirs, limit=LIMIT):
    assert ours.keys() == theirs.keys()
    for name, want in theirs.items():
        apart = abs(ours[name].astype("f8") - want).max() / max(abs(want).max(), 1e-30)
        assert apart <= limit, f"{name}: {apart:.1e}"


# name-setting: (ours, PyTorch's)
TORCH = {
    "sgd": ({"lr": 0.1}, lambda t, p: t.optim.SGD(p, 0.1)),
    "sgd-L2": ({"lr": 0.1, "weight_decay": 0.01}, lambda t, p: t.optim.SGD(p, 0.1, weight_decay=0.01)),
    "momentum": ({"lr": 0.1}, lambda t, p: t.optim.SGD(p, 0.1, momentum=0.9)),
    "momentum-dampening": (
        {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01},
        lambda t, p: t.optim.SGD(p, 0.1, momentum=0.8, dampening=0.3, weight_decay=0.01),
    ),
    "nesterov": (
        {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.01},
        lambda t, p: t.optim.SGD(p, 0.05, momentum=0.8, nesterov=True, weight_decay=0.01),
    ),
    "adagrad": ({"lr": 0.05}, lambda t, p: t.optim.Adagrad(p, 0.05)),
    "adagrad-decay": (
        {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator": 0.1, "weight_decay": 0.01, "eps": 1e-6},
        lambda t, p: t.optim.Adagrad(p, 0.1, 0.01, 0.01, 0.1, 1e-6),
    ),
    "rmsprop": ({"lr": 0.01, "eps": 1e-3}, lambda t, p: t.optim.RMSprop(p, 0.01, eps=1e-3)),
    "rmsprop-momentum": (
        {"lr": 0.001, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.01},
        lambda t, p: t.optim.RMSprop(p, 0.001, 0.9, momentum=0.9, weight_decay=0.01),
    ),
    "rmsprop-centered": (
        {"lr": 0.001, "alpha": 0.9, "momentum": 0.5, "centered": True, "eps": 1e-2},
        lambda t, p: t.optim.RMSprop(p, 0.001, 0.9, momentum=0.5, centered=True, eps=1e-2),
    ),
    "adam": ({"lr": 0.01}, lambda t, p: t.optim.Adam(p, 0.01)),
    "adam-amsgrad": (
        {"lr": 0.01, "weight_decay": 0.01, "betas": (0.8, 0.9), "amsgrad": True},
        lambda t, p: t.optim.Adam(p, 0.01, (0.8, 0.9), weight_decay=0.01, amsgrad=True),
    ),
    "adamw": ({}, lambda t, p: t.optim.AdamW(p)),
    "adamw-decay": (
        {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-6},
        lambda t, p: t.optim.AdamW(p, 0.01, weight_decay=0.1, eps=1e-6),
    ),
    "nadam": ({"lr": 0.01}, lambda t, p: t.optim.NAdam(p, 0.01)),
    "nadam-decoupled": (
        {"lr": 0.01, "betas": (0.8, 0.99), "momentum_decay": 0.1, "weight_decay": 0.1, "decoupled": True},
        lambda t, p: t.optim.NAdam(
            p, 0.01, (0.8, 0.99), weight_decay=0.1, momentum_decay=0.1, decoupled_weight_decay=True
        ),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_100_steps_equal_torch(name, torch):
    how, build = TORCH[name]
    ours, _ = trained(lambda p: optim.build(name.split("-")[0], p, **how))
    close(ours, trained_by_torch(torch, lambda named: [build(torch, list(named.values()))]))


def test_every_name_has_a_rate_and_can_be_built():
    for name in optim.NAMES:
        rule = optim.UpdateRule.registry[name]
        assert 1e-4 < rule.default_lr < 1, name
        made = optim.build(name, Problem().parameters(), lr=rule.default_lr, weight_decay=0.01)
        assert isinstance(made, optim.UpdateRule)
        assert (made.lr, made.weight_decay) == (rule.default_lr, 0.01)


def test_a_name_without_a_rate_or_given_twice_is_refused():
    before = dict(optim.UpdateRule.registry)
    with pytest.raises(TypeError, match="optimiser lion: class Lion has no default_lr"):

        class Lion(optim.Optimizer, name="lion"):
            pass

    with pytest.raises(ValueError, match="two optimisers are called sgd"):

        class Other(optim.Optimizer, name="sgd"):
            default_lr = 0.1

    assert dict(optim.UpdateRule.registry) == before


def test_without_an_average_the_parameters_stay_what_they_are():
    net = Problem()
    before = values(net)
    with optim.SGD(net.parameters(), 0.1).averaged():
        assert all(np.array_equal(value, before[name]) for name, value in values(net).items())


def test_every_optimiser_is_compared():
    elsewhere = {"lamb", "lookahead", "muon"}
    assert {name.split("-")[0] for name in TORCH} | elsewhere == set(optim.NAMES)


@pytest.mark.parametrize(
    "how", [{}, {"nesterov": False, "weight_decay": 0.1, "adjust": "match_rms_adamw", "momentum": 0.8}], ids=str
)
def test_muon_equals_torch(how, torch, monkeypatch):
    """PyTorch's iteration rounds to bfloat16; without that, in float64, it is compared to 1e-6. Filters as matrices."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())
    theirs = {"weight_decay": 0.0, "lr": 0.003, **how}
    theirs["adjust_lr_fn"] = theirs.pop("adjust", "original")

    def make(named):
        matrix = torch.nn.Parameter(named["f"].detach().reshape(3, 8))  # shares the memory
        rest = torch.optim.AdamW([named["b"], named["s"]], 3e-4, weight_decay=theirs["weight_decay"])

        class Both:
            muon = torch.optim.Muon([named["w"], matrix], **theirs)

            def step(self):
                matrix.grad = named["f"].grad.reshape(3, 8)
                self.muon.step()
                rest.step()

        return [Both()]

    decay = how.get("weight_decay", 0.0)

    def both(p):
        matrices, others = [q for q in p if q.shape[1:]], [q for q in p if not q.shape[1:]]
        return optim.Combined(optim.Muon(matrices, lr=0.003, **how), optim.AdamW(others, 3e-4, weight_decay=decay))

    ours, _ = trained(both)
    close(ours, trained_by_torch(torch, make))
    if not how:
        by_name, _ = trained(lambda p: optim.build("muon", p, lr=0.003))
        assert all(np.array_equal(by_name[name], ours[name]) for name in ours)


@pytest.mark.parametrize("how", [{"clip_norm": 0.3}, {"clip_value": 0.05}, {"clip_norm": 50.0}], ids=str)
def test_clipping_equals_torch(how, torch):
    def after(named):
        if "clip_norm" in how:
            torch.nn.utils.clip_grad_norm_(named.values(), how["clip_norm"])
        else:
            torch.nn.utils.clip_grad_value_(named.values(), how["clip_value"])

    ours, optimizer = trained(lambda p: optim.Momentum(p, 0.1, weight_decay=0.01, **how))
    theirs = trained_by_torch(
        torch, lambda named: [torch.optim.SGD(named.values(), 0.1, 0.9, weight_decay=0.01)], after
    )
    close(ours, theirs)
    optimizer.clip_norm = None
    with pytest.raises(ShapeError, match="clip_norm is 0, it has to be more than 0"):
        optimizer.clip_norm = 0


def test_groups_equal_torch(torch):
    """Rates, momentum, decay and a frozen one per group, while a schedule drives the rates of all."""
    groups = {
        "w": {"lr": 0.02, "weight_decay": 0.1},
        "[bs]": {"weight_decay": 0.0, "momentum": 0.5},
        "f": {"frozen": True},
    }
    rate = schedule.cosine(0.1, STEPS)

    def make(p):
        optimizer = optim.Momentum(optim.by_name(p, groups), lr=0.1, weight_decay=0.01)
        optimizer.schedule(lr=rate)
        return optimizer

    def make_theirs(named):
        described = [
            {"params": [named["w"]], "lr": 0.02, "weight_decay": 0.1},
            {"params": [named["b"], named["s"]], "weight_decay": 0.0, "momentum": 0.5},
        ]
        descent = torch.optim.SGD(described, 0.1, 0.9, weight_decay=0.01)
        return descent, torch.optim.lr_scheduler.CosineAnnealingLR(descent, STEPS)

    ours, _ = trained(make)
    assert np.array_equal(ours["f"], START["f"])
    close(ours, trained_by_torch(torch, make_theirs))


def test_l1_and_decoupled_decay(torch):
    how = {"l1": 0.02, "weight_decay": 0.1, "decoupled": True}
    ours, _ = trained(lambda p: optim.Momentum(p, 0.05, 0.8, **how))

    def after(named):
        with torch.no_grad():
            for p in named.values():
                p.mul_(1 - 0.05 * 0.1)

    theirs = trained_by_torch(
        torch, lambda named: [torch.optim.SGD(named.values(), 0.05, 0.8)], after, penalty=lambda p: 0.02 * p.sign()
    )
    close(ours, theirs)


def test_one_cycle_of_rate_and_momentum_equals_torch(torch):
    """Adam's first beta is what is cycled."""
    start = (0.25 * STEPS - 1) / STEPS  # PyTorch turns one step earlier

    def make(p):
        optimizer = optim.Adam(p, 0.01)
        optimizer.schedule(
            lr=schedule.one_cycle(0.01, STEPS, start, final_div=25e4),
            momentum=schedule.one_cycle_momentum(STEPS, start=start),
        )
        return optimizer

    def make_theirs(named):
        descent = torch.optim.Adam(named.values(), 0.01)
        cycle = torch.optim.lr_scheduler.OneCycleLR(descent, 0.01, STEPS, pct_start=0.25)
        return descent, cycle

    # the last call of PyTorch's scheduler is one too many
    ours, _ = trained(make, STEPS - 1)
    close(ours, trained_by_torch(torch, make_theirs, steps=STEPS - 1))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_without_correction_equals_its_algorithm(amsgrad):
    """Kingma and Ba 2015, algorithm 1, with m and v in place of their corrected values; Reddi et al. 2018, algorithm
    2.
    """
    how = {"bias_correction": False, "amsgrad": amsgrad}
    ours, _ = trained(lambda p: optim.Adam(p, 0.003, **how))
    p = {k: v.astype("f8") for k, v in START.items()}
    m, v, most = ({k: np.zeros_like(x) for k, x in p.items()} for _ in range(3))
    for t in range(STEPS):
        for k, g in gradients(p, t).items():
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.999 * v[k] + 0.001 * g**2
            most[k] = np.maximum(most[k], v[k])
            p[k] = p[k] - 0.003 * m[k] / (np.sqrt(most[k] if amsgrad else v[k]) + 1e-8)
    close(ours, p)


def lamb(p, g, state, t, lr, decay, bounds=None):
    """You et al. 2020, algorithm 2, in NumPy."""
    m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + decay * p
    size = np.sqrt((p**2).sum())
    if bounds is not None:
        size = min(max(size, bounds[0]), bounds[1])
    return p - lr * size / np.sqrt((u**2).sum()) * u


@pytest.mark.parametrize("how", [{}, {"weight_decay": 0.1, "bounds": (0.1, 1.0)}], ids=str)
def test_lamb_equals_its_algorithm(how):
    ours, _ = trained(lambda p: optim.LAMB(p, 0.01, **how))
    p, states = {k: v.astype("f8") for k, v in START.items()}, {k: {} for k in START}
    for t in range(1, STEPS + 1):
        g = gradients(p, t - 1)
        decay, bounds = how.get("weight_decay", 0.0), how.get("bounds")
        p = {k: lamb(p[k], g[k], states[k], t, 0.01, decay, bounds) for k in p}
    close(ours, p)


def test_lamb_of_a_parameter_of_zeros_and_without_adaptation():
    for value, how in ((0.0, {}), (2.0, {"adapt": False})):
        p = nn.Parameter(np.full(3, value), "p")
        apply(optim.LAMB([p], 0.5, eps=1e-12, **how), [1.0, -1.0, 2.0])
        np.testing.assert_allclose(p.data, value + np.array([-0.5, 0.5, -0.5]), rtol=1e-6)


def test_lookahead_equals_its_algorithm():
    ours, optimizer = trained(lambda p: optim.Lookahead(optim.Momentum(p, 0.1), k=6, alpha=0.3))
    p = {k: v.astype("f8") for k, v in START.items()}
    slow, velocity = p, dict.fromkeys(p, 0.0)
    for t in range(1, STEPS + 1):
        g = gradients(p, t - 1)
        velocity = {k: 0.9 * velocity[k] + g[k] for k in p}
        p = {k: p[k] - 0.1 * velocity[k] for k in p}
        if t % 6 == 0:
            p = slow = {k: slow[k] + 0.3 * (p[k] - slow[k]) for k in p}
    close(ours, p)
    held = {q.name: optimizer.copies[q].data for q in optimizer.parameters}
    close(held, slow)


def test_averages_equal_torch(torch):
    utils = torch.optim.swa_utils
    made = {
        "ema": utils.AveragedModel(
            torch.nn.ParameterDict({k: torch.tensor(v.astype("f8")) for k, v in START.items()}),
            multi_avg_fn=utils.get_ema_multi_avg_fn(0.9),
        ),
        "swa": utils.AveragedModel(torch.nn.ParameterDict({k: torch.tensor(v.astype("f8")) for k, v in START.items()})),
    }
    count = iter(range(STEPS))

    def after(named):
        """Before step t, so after step t - 1."""
        t = next(count)
        model = torch.nn.ParameterDict(named)
        if t:
            made["ema"].update_parameters(model)
        if t > 20 and (t - 20) % 10 == 0:
            made["swa"].update_parameters(model)

    trained_by_torch(torch, lambda named: [torch.optim.SGD(named.values(), 0.1)], after)
    builders = {
        "ema": lambda p: optim.EMA(optim.SGD(p, 0.1), 0.9),
        "swa": lambda p: optim.SWA(optim.SGD(p, 0.1), start=20, every=10),
    }
    for name, build in builders.items():
        _, average = trained(build, STEPS - 1)
        before = [p.data.copy() for p in average.parameters]
        with average.averaged():
            want = {k: v.numpy() for k, v in made[name].module.state_dict().items()}
            close({p.name: p.data for p in average.parameters}, want)
            with pytest.raises(ShapeError, match="the model holds the averages now"):
                average.begin()
        assert all(np.array_equal(a, p.data) for a, p in zip(before, average.parameters, strict=True))


def test_what_is_frozen_stays_what_it_is_when_averages_are_swapped_in():
    net = Problem()
    net.s.trainable = False
    groups = optim.by_name(net.parameters(), {"b": {"frozen": True}})
    average = optim.EMA(optim.Lookahead(optim.SGD(groups, 0.1), k=2), 0.9)
    step = foveal.compile_step(net, loss, average, threads=1)
    for i in range(3):
        step(*batch(i))
    with average.averaged():
        assert np.array_equal(net.b.data, START["b"])
        assert np.array_equal(net.s.data, START["s"])
        assert not np.array_equal(net.w.data, START["w"])


def test_statistics_of_batch_norm_for_averages_equal_torch(torch):
    x = RNG.standard_normal((4, 6, 3, 5, 5)).astype("f4")
    nn.seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    t = torch.nn
    theirs = t.Sequential(t.Conv2d(3, 4, 3), t.BatchNorm2d(4), t.ReLU(), t.Conv2d(4, 2, 1), t.BatchNorm2d(2))
    theirs.load_state_dict({k: torch.tensor(v) for k, v in ours.state_dict().items()})
    ours.eval()
    optim.update_bn(ours, [(batch, None) for batch in x])
    torch.optim.swa_utils.update_bn([torch.tensor(batch) for batch in x], theirs)
    close(ours.state_dict(), {k: v.numpy() for k, v in theirs.state_dict().items()}, 1e-5)
    assert not ours.training
    with pytest.raises(ShapeError, match="update_bn: there are no batches"):
        optim.update_bn(ours, [])
    before = ours.state_dict()
    with pytest.raises(NumericsError, match="running_mean is updated with is nan"):
        optim.update_bn(ours, [x[0], x[0] * np.float32(1e25)])
    assert all(np.array_equal(before[name], value) for name, value in ours.state_dict().items())


# published values


def apply(optimizer, *gradients):
    """One update from given gradients."""

    def update(*given):
        pairs = optimizer.assignments(dict(zip(optimizer.parameters, given, strict=True)))
        for variable, value in pairs:
            current().assign(variable, value)
        return given[0]

    optimizer.begin()
    foveal.compile(update, threads=1)(*(np.asarray(g, "f4") for g in gradients))


@pytest.mark.parametrize("rule", ["sgd_momentum", "rmsprop", "adam"])
def test_values_of_cs231n(rule, cs231n):
    """Their velocity is -lr times ours, since the rate stands inside of it; their adam counts a step before it is
    used.
    """
    (values,) = (v for call, v in cs231n.items() if rule in call)
    values = {k: np.array(v) if isinstance(v, list) else v for k, v in values.items()}
    p, lr = nn.Parameter(values["w"], "w"), values["config"]["learning_rate"]
    if rule == "sgd_momentum":
        optimizer, state = (optim.Momentum([p], lr), {"velocity": ("v", "expected_velocity", -1 / lr)})
    elif rule == "rmsprop":
        optimizer, state = optim.RMSprop([p], lr), {"square": ("cache", "expected_cache", 1)}
    else:
        optimizer = optim.Adam([p], lr)
        state = {"mean": ("m", "expected_m", 1), "square": ("v", "expected_v", 1)}
        optimizer.steps = values["config"]["t"]
    for name, (given, _, scale) in state.items():
        optimizer.state[p][name].data = values[given] * scale
    apply(optimizer, values["dw"])
    np.testing.assert_allclose(p.data, values["expected_next_w"], rtol=1e-6, atol=1e-7)
    for name, (_, want, scale) in state.items():
        np.testing.assert_allclose(optimizer.state[p][name].data / scale, values[want], rtol=1e-6)


def onnx_optimizer(kind, parameters, rate, attributes):
    """What ONNX's operator means in ours: norm_coefficient is L2 decay, beta of Momentum is 1 - dampening.

    ONNX's Adam adds epsilon after its correction of the rate, we before; at T = 0, which is what the node tests
    compute, it corrects nothing.
    """
    decay, eps = attributes["norm_coefficient"], attributes.get("epsilon")
    if kind == "Adagrad":
        return optim.Adagrad(parameters, rate, attributes["decay_factor"], eps=eps, weight_decay=decay)
    if kind == "Adam":
        betas = attributes["alpha"], attributes["beta"]
        return optim.Adam(parameters, rate, betas, eps, bias_correction=False, weight_decay=decay)
    return optim.Momentum(
        parameters,
        rate,
        attributes["alpha"],
        nesterov=attributes["mode"] == "nesterov",
        dampening=1 - attributes["beta"],
        weight_decay=decay,
    )


STATES = {"Adagrad": ("sum",), "Adam": ("mean", "square"), "Momentum": ("velocity",)}


@pytest.mark.parametrize(
    "name",
    ["adagrad", "adagrad_multiple", "adam", "adam_multiple", "momentum", "momentum_multiple", "nesterov_momentum"],
)
def test_nodes_of_onnx(name):
    index = VECTORS / "onnx-node" / "index.json"
    if not index.is_file():
        pytest.skip(f"no node tests of ONNX at {index}")
    (case,) = (c for c in json.loads(index.read_text()) if c["name"] == f"test_{name}")
    (node,) = case["nodes"]
    arrays = np.load(index.with_name(f"test_{name}.npz"))
    rate, step, *given = [arrays[f"in:{n}"] for n in node["inputs"]]
    want = [arrays[f"out:{n}"] for n in node["outputs"]]
    names = STATES[node["op_type"]]
    count = len(given) // (2 + len(names))
    parameters = [nn.Parameter(x, f"x{i}") for i, x in enumerate(given[:count])]
    optimizer = onnx_optimizer(node["op_type"], parameters, float(rate), node["attrs"])
    optimizer.steps = int(step)
    held = [optimizer.state[p][state] for state in names for p in parameters]
    for variable, value in zip(held, given[2 * count :], strict=True):
        variable.data = value
    apply(optimizer, *given[count : 2 * count])
    for variable, value in zip([*parameters, *held], want, strict=True):
        np.testing.assert_allclose(variable.data, value, rtol=1e-6)


# state, structure, names


def test_a_saved_optimiser_goes_on_where_it_was(tmp_path):
    from safetensors.numpy import load_file, save_file

    def make(p):
        groups = optim.by_name(p, {"b": {"lr_factor": 0.5, "betas": (0.5, 0.9)}})
        return optim.EMA(optim.Lookahead(optim.Adam(groups, 0.02, amsgrad=True), k=3), 0.8)

    whole, _ = trained(make, 10)
    net = Problem()
    first = make(net.parameters())
    step = foveal.compile_step(net, loss, first, threads=1)
    for i in range(5):
        step(*batch(i))
    save_file(first.state_dict(), tmp_path / "state.safetensors")
    other = Problem()
    other.load_state_dict(net.state_dict())
    second = make(other.parameters())
    second.load_state_dict(load_file(tmp_path / "state.safetensors"))
    step = foveal.compile_step(other, loss, second, threads=1)
    for i in range(5, 10):
        step(*batch(i))
    assert all(np.array_equal(whole[name], value) for name, value in values(other).items())


def test_a_state_that_does_not_fit_is_told_and_changes_nothing():
    net = Problem()
    adam, momentum = optim.Adam(net.parameters()), optim.Momentum(net.parameters(), 0.1)
    before = momentum.state_dict()
    with pytest.raises(StateError, match=r"missing: dampening.*unknown: betas\.0.*with the options"):
        momentum.load_state_dict(adam.state_dict())
    wrong = {**before, "0.velocity": np.zeros(3)}
    with pytest.raises(StateError, match=r"0\.velocity: the file has \[3\], the optimiser \[4, 6\]"):
        momentum.load_state_dict(wrong)
    assert all(np.array_equal(before[k], v) for k, v in momentum.state_dict().items())


def test_numbers_change_without_compiling_and_structure_compiles_anew():
    net = Problem()
    optimizer = optim.Momentum(optim.no_decay(net.parameters()), 0.1, weight_decay=0.1)
    assert [[p.name for p in g.parameters] for g in optimizer.groups] == [["w", "f"], ["b", "s"]]
    step = foveal.compile_step(net, loss, optimizer, threads=1)
    step(*batch(0))
    optimizer.lr, optimizer.momentum, optimizer.weight_decay = 0.2, 0.5, 0.3
    step(*batch(0))
    assert len(step.programs) == 1
    optimizer.groups[1]["frozen"] = True
    before = values(net)
    step(*batch(0))
    assert len(step.programs) == 2
    changed = {k for k, v in values(net).items() if not np.array_equal(v, before[k])}
    assert changed == {"w", "f"}


def test_a_step_that_fails_takes_schedules_and_averages_back():
    net = Problem()
    optimizer = optim.EMA(optim.Lookahead(optim.Adam(net.parameters(), 0.1), k=2))
    optimizer.schedule(lr=schedule.linear(0.1, 10))
    step = foveal.compile_step(net, loss, optimizer, threads=1)
    step(*batch(0))
    before, model = optimizer.state_dict(), net.state_dict()
    with pytest.raises(NumericsError):
        step(*(np.full(1, 1e30, "f4"), NOTHING))
    optimizer.lr = before["0.0.lr"]
    after = optimizer.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert all(np.array_equal(model[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_average_has_running_statistics_of_its_own(accumulate):
    nn.seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    optimizer = optim.EMA(optim.SGD(net.parameters(), 0.1), 0.8, statistics=net.buffers())
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, accumulate=accumulate)
    rng, norm, wanted = np.random.default_rng(0), net[1], None
    for number in range(1, 7):
        step(rng.standard_normal((8, 1, 8, 8), np.float32), rng.integers(0, 3, 8))
        now = np.stack([norm.running_mean, norm.running_var])
        if number % accumulate == 0:
            wanted = now if wanted is None else 0.8 * wanted + 0.2 * now
    with optimizer.averaged():
        np.testing.assert_allclose(np.stack([norm.running_mean, norm.running_var]), wanted, rtol=1e-5, atol=1e-7)
        assert norm.num_batches_tracked.data == 6
    assert abs(now - wanted).max() > 0.01
    assert (np.stack([norm.running_mean, norm.running_var]) == now).all()


def test_norms_of_all_gradients_and_of_layers_are_the_same_bits_on_any_number_of_threads():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((16, 300)).astype("f4"), rng.integers(0, 200, 16)

    def run(threads):
        nn.seed(0)
        first, second = nn.Linear(300, 200), nn.Linear(200, 200)
        net = nn.Sequential(first, nn.ReLU(), second)
        rules = [optim.muon(first.parameters()), optim.LAMB(second.parameters(), 0.01)]
        optimizer = optim.EMA(optim.Combined(*rules, clip_norm=0.1))
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, threads=threads)
        for _ in range(3):
            step(x, labels)
        return [v.tobytes() for v in (*net.state_dict().values(), *optimizer.state_dict().values())]

    assert run(1) == run(2) == run(3)


# errors


def p(*shape):
    return nn.Parameter(np.ones(shape), "w")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: optim.SGD([], 0.1), "SGD: there are no parameters"),
        (lambda: optim.SGD([p(2)], -0.1), "SGD: lr is -0.1, it has to be at least 0"),
        (lambda: optim.SGD([p(2)], float("nan")), "SGD: lr is nan"),
        (lambda: optim.SGD([p(2)], 0.1, weight_decay=-1), "SGD: weight_decay is -1"),
        (lambda: optim.SGD([p(2)], 0.1, l1=-1), "SGD: l1 is -1"),
        (lambda: optim.SGD([p(2)], 0.1, clip_norm=-1.0), "clip_norm is -1.0, it has to be more than 0"),
        (lambda: optim.SGD([np.ones(3)], 0.1), "SGD: ndarray is no parameter; give net.parameters"),
        (lambda: optim.Momentum([p(2)], 0.1, 1.0), "momentum is 1.0, it has to be at least 0 and below 1"),
        (lambda: optim.Momentum([p(2)], 0.1, -0.1), "Momentum: momentum is -0.1"),
        (lambda: optim.Momentum([p(2)], 0.1, nesterov=True, dampening=0.1), "without dampening, which is 0.1"),
        (lambda: optim.Momentum([p(2)], 0.1, dampening=float("nan")), "dampening is nan, it has to be a finite number"),
        (lambda: optim.Adam([p(2)], betas=(0.9, 1.0)), r"Adam: betas is \(0.9, 1.0\), it has to be at"),
        (lambda: optim.Adam([p(2)], betas=(0.9,)), "betas is .*, it has to be two numbers"),
        (lambda: optim.Adam([p(2)], eps=0.0), "Adam: eps is 0.0, it has to be more than 0"),
        (lambda: optim.NAdam([p(2)], momentum_decay=-1), "NAdam: momentum_decay is -1"),
        (lambda: optim.RMSprop([p(2)], alpha=1), "RMSprop: alpha is 1"),
        (lambda: optim.Adagrad([p(2)], lr_decay=-1), "Adagrad: lr_decay is -1"),
        (lambda: optim.Adagrad([p(2)], initial_accumulator=-1), "initial_accumulator is -1"),
        (lambda: optim.LAMB([p(2)], bounds=(2, 1)), r"LAMB: bounds is \(2, 1\)"),
        (lambda: optim.LAMB([p(2)], decoupled=True), "LAMB: weight decay is part of its update"),
        (lambda: optim.Muon([p(2)]), r"Muon: parameter w \[2\] is no matrix.*optim\.muon"),
        (lambda: optim.Muon([p(2, 2)], adjust="x"), "Muon: adjust 'x' is not one of original"),
        (lambda: optim.Muon([p(2, 2)], ns_steps=0), "Muon: ns_steps is 0"),
        (lambda: optim.Lookahead(optim.SGD([p(2)], 0.1), k=0), "Lookahead: k is 0"),
        (lambda: optim.Lookahead(optim.SGD([p(2)], 0.1), alpha=0), "Lookahead: alpha is 0"),
        (lambda: optim.EMA(optim.SGD([p(2)], 0.1), 1.0), "EMA: decay is 1.0"),
        (lambda: optim.SWA(optim.SGD([p(2)], 0.1), every=0), "SWA: start is 0 and every is 0"),
        (lambda: optim.Combined(), "Combined: there are no optimisers"),
        (lambda: optim.build("lion", [p(2)], lr=0.1), "no optimiser called 'lion'; choose one of sgd"),
        (lambda: optim.SGD([{"lr": 1.0}], 0.1), "a group of parameters lacks 'params'"),
        (lambda: optim.SGD([{"params": p(2), "beta": 1}], 0.1), "has 'beta', which is no hyper-parameter"),
        (lambda: optim.SGD([{"params": p(2), "lr": -1}], 0.1), "SGD: lr is -1"),
        (lambda: optim.SGD([{"params": p(2), "lr": 1.0}], 0.0), "a group has lr 1, but the optimiser's own lr is 0"),
        (lambda: optim.by_name([p(2)], {"*.bias": {}}), r"no parameter is called '\*\.bias'.*there are w"),
        (lambda: optim.SGD([p(2)], 0.1).schedule(momentum=lambda step: 0.9), "has no hyper-parameter 'momentum'"),
    ],
)
def test_errors_name_what_is_wrong(make, words):
    with pytest.raises(ShapeError, match=words):
        make()


def test_a_parameter_belongs_to_one_group():
    w = p(2, 3)
    with pytest.raises(ShapeError, match=r"parameter w \[2, 3\] is named twice"):
        optim.SGD([{"params": [w]}, {"params": [w]}], 0.1)
    with pytest.raises(ShapeError, match=r"parameter w \[2, 3\] belongs to two of the optimisers"):
        optim.Combined(optim.SGD([w], 0.1), optim.Adam([w]))
    with pytest.raises(ShapeError, match=r"momentum is 1\.5"):
        optim.Momentum([w], 0.1).momentum = 1.5


def test_a_third_argument_of_sgd_is_no_weight_decay():
    with pytest.raises(ArgumentError, match="SGD: too many positional arguments"):
        optim.SGD([nn.Parameter(np.ones(3))], 0.1, 0.9)
