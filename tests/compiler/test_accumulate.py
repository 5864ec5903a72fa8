"""Gradients of several batches for one update: four batches of n are one batch of 4 n."""

import copy
import pickle

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import NumericsError, ShapeError, StateError

RNG = np.random.default_rng(5)
X, Y = RNG.standard_normal((24, 1, 6, 6)).astype("float32"), RNG.integers(0, 3, 24)


def network(seed=0, dropout=0.0):
    nn.seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(48, 3))


def made(accumulate=1, rule="adamw", loss=None, dropout=0.0, **options):
    net = network(dropout=dropout)
    optimizer = optim.build(rule, net.parameters(), lr=0.01)
    optimizer.schedule(lr=optim.schedule.cosine(0.01, 20))
    loss = nn.CrossEntropyLoss() if loss is None else loss
    return foveal.compile_step(net, loss, optimizer, threads=1, accumulate=accumulate, **options)


def values(step):
    return {name: np.array(value) for name, value in step.model.state_dict().items()}


def close(one, other, atol=1e-6):
    return all(np.allclose(one[name], other[name], atol=atol) for name in one | other)


def take(step, *batches):
    return [step(X[rows], Y[rows]).loss for rows in batches]


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


QUARTERS = [slice(i, i + 6) for i in range(0, 24, 6)]


@pytest.mark.parametrize("rule", ["sgd", "adamw", "muon", "lookahead"])
def test_four_batches_are_one_of_four_times_the_size(rule):
    whole, parts = made(rule=rule), made(4, rule)
    for _ in range(3):
        losses = take(parts, *QUARTERS)
        assert np.mean(losses) == pytest.approx(take(whole, slice(0, 24))[0], rel=1e-5)
        assert close(values(whole), values(parts), 1e-5)
    assert (parts.steps, parts.optimizer.steps, parts.optimizer.lr) == (12, 3, whole.optimizer.lr)


def test_nothing_moves_before_the_last_batch():
    step = made(4)
    before = values(step)
    take(step, *QUARTERS[:3])
    assert equal(values(step), before)
    assert (step.steps, step.optimizer.steps) == (3, 0)
    take(step, QUARTERS[3])
    assert not equal(values(step), before)


def test_torch_agrees():
    torch = pytest.importorskip("torch")
    step = made(3, "momentum")
    step.optimizer.schedules.clear()
    step.optimizer.clip_norm = 0.5
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Dropout(0.0), torch.nn.Flatten(), torch.nn.Linear(48, 3)
    )
    theirs.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in values(step).items()})
    rule = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        for rows in QUARTERS[:3]:
            x, y = torch.from_numpy(X[rows]), torch.from_numpy(Y[rows])
            (torch.nn.functional.cross_entropy(theirs(x), y) / 3).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        rule.step()
        rule.zero_grad()
        take(step, *QUARTERS[:3])
    assert close(values(step), {k: v.numpy() for k, v in theirs.state_dict().items()}, 1e-5)


def test_batches_of_a_window_may_differ_in_size():
    whole, parts = made(), made(3)
    take(whole, slice(0, 24))
    take(parts, slice(0, 4), slice(4, 16), slice(16, 24))
    assert close(values(whole), values(parts))


def test_an_incomplete_window_is_flushed():
    whole, parts = made(), made(4)
    take(whole, slice(0, 12))
    parts.flush()
    assert parts.optimizer.steps == 0
    take(parts, *QUARTERS[:2])
    parts.flush()
    assert close(values(whole), values(parts))
    # the next window begins anew
    take(whole, slice(0, 24))
    take(parts, *QUARTERS)
    assert close(values(whole), values(parts), 1e-5)
    whole.flush()


def test_a_loss_that_is_a_sum_is_added_up():
    losses = nn.CrossEntropyLoss(reduction="sum"), nn.AuxiliaryLoss(nn.CrossEntropyLoss(reduction="sum"))
    for loss in losses:
        whole, parts = made(loss=loss, rule="sgd"), made(2, "sgd", loss=loss)
        take(whole, slice(0, 12))
        take(parts, *QUARTERS[:2])
        assert close(values(whole), values(parts))


def test_dropout_draws_for_each_batch():
    step, alone = made(2, dropout=0.5), made(dropout=0.5)
    same = X[:6], Y[:6]
    outputs = [step(*same).output for _ in range(2)]
    assert not np.array_equal(*outputs)
    assert np.array_equal(alone(*same).output, outputs[0])


def test_without_accumulation_the_graph_is_what_it_was():
    x, y = foveal.ops.op.Type((6, 1, 6, 6)), foveal.ops.op.Type((6,), "int32")
    graph = str(made().trace(x, y))
    assert graph == str(made(1).trace(x, y))
    assert "sum of gradients" not in graph


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_batch_that_fails_is_left_out(at):
    """An infinite loss changes nothing, and the window goes on with the next batch."""
    scale = foveal.Variable(np.float32(1))

    def loss(output, target):
        return nn.CrossEntropyLoss()(output, target) * scale

    whole, parts = made(), made(4, loss=loss)
    for i, rows in enumerate(QUARTERS):
        if i == at:
            scale.data = np.inf
            before = values(parts), parts.state_dict()
            with pytest.raises(NumericsError, match=f"update of 4 batches, of which the sums hold {at}, and the next"):
                take(parts, rows)
            assert equal(before[0], values(parts))
            assert equal(before[1], parts.state_dict())
            scale.data = 1
        take(parts, rows)
    take(whole, slice(0, 24))
    assert close(values(whole), values(parts))


def test_an_update_that_fails_drops_the_sums_and_leaves_the_parameters():
    step = made(2, "sgd")
    step.optimizer.schedules.clear()
    step.optimizer.clip_norm = 1.0
    scale = foveal.Variable(np.float32(1.2e18))
    step.loss = lambda output, target: ops.sum(output) * scale
    before = values(step)
    take(step, QUARTERS[0])
    with pytest.raises(NumericsError, match=r"the norm of all gradients is inf, averaged over 2 batches.*were dropped"):
        take(step, QUARTERS[1])
    assert equal(values(step), before)
    assert step.optimizer.steps == 0
    scale.data = 1
    take(step, *QUARTERS[:2])
    assert step.optimizer.steps == 1


def test_an_interruption_before_the_update_is_made_up_for(monkeypatch):
    step, plain = made(2), made(2)
    take(plain, *QUARTERS)

    def interrupted():
        raise KeyboardInterrupt

    take(step, QUARTERS[0])
    # while the update is compiled, and before it is begun
    for name, rows in (("build", QUARTERS[1]), ("update", QUARTERS[3])):
        monkeypatch.setattr(step.window, name, lambda *_: interrupted())
        step.window.programs = type(step.window.programs)()
        with pytest.raises(KeyboardInterrupt):
            take(step, rows)
        monkeypatch.undo()
        if name == "build":
            assert step.optimizer.steps == 0
            take(step, QUARTERS[2])
    step.flush()
    assert equal(values(step), values(plain))
    assert step.optimizer.steps == plain.optimizer.steps == 2


def test_a_window_goes_on_from_its_state():
    step, later = made(4, dropout=0.3, seed=1), made(4, dropout=0.3, seed=2)
    # The norm is a sum over all gradients, whose order counts.
    step.optimizer.clip_norm = later.optimizer.clip_norm = 0.01
    take(step, *QUARTERS, *QUARTERS[:2])
    foveal.train.load_state_dict(later, foveal.train.state_dict(step))
    copied, pickled = copy.deepcopy(step), None
    step.optimizer.schedules.clear()
    pickled = pickle.loads(pickle.dumps(step))
    for one in (step, later, copied, pickled):
        one.optimizer.schedule(lr=optim.schedule.cosine(0.01, 20))
        take(one, *QUARTERS[2:])
    for one in (later, copied, pickled):
        assert equal(foveal.train.state_dict(step), foveal.train.state_dict(one))


def test_states_of_other_windows_are_refused():
    step = made(4)
    take(step, QUARTERS[0])
    state = step.state_dict()
    with pytest.raises(StateError, match="of 4 batches and is of 2: give the same accumulate"):
        made(2).load_state_dict(state)
    with pytest.raises(StateError, match="no state of a step"):
        made().load_state_dict(state)
    for name in state:
        bad = {**state, name: np.zeros((2, 2), "float32")}
        with pytest.raises(StateError, match=r"window|no state of a step"):
            made(4).load_state_dict(bad)
    with pytest.raises(ShapeError, match="accumulate is 0; an update takes the gradients of 1 batch or more"):
        made(0)


def test_a_parameter_frozen_in_a_window_stays_and_its_sum_is_gone():
    step = made(2, "sgd")
    take(step, QUARTERS[0])
    bias = step.model[0].bias
    before = np.array(bias.data)
    bias.requires_grad = False
    take(step, QUARTERS[1])
    assert np.array_equal(bias.data, before)
    bias.requires_grad = True
    whole = made(1, "sgd")
    whole.model.load_state_dict(step.model.state_dict())
    whole.optimizer.steps = step.optimizer.steps
    take(step, *QUARTERS[2:])
    take(whole, slice(12, 24))
    assert close(values(whole), values(step))


def test_averages_in_place_of_parameters_are_refused_at_once():
    net = network()
    average = optim.EMA(optim.SGD(net.parameters(), lr=0.1), 0.5)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), average, accumulate=2)
    take(step, *QUARTERS)
    with average.averaged(), pytest.raises(ShapeError, match="the model holds the averages now"):
        take(step, QUARTERS[0])


def test_batch_norm_is_the_exception_and_its_statistics_follow_each_batch():
    nn.seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3))
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), accumulate=2)
    take(step, *QUARTERS)
    assert net[1].num_batches_tracked.data == 4
