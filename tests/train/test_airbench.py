"""airbench94: the recipe's numbers against its source's formulas, and its steps against PyTorch in double precision."""

import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.data import from_arrays
from foveal.errors import ArgumentError, ShapeError
from foveal.nn.models import airbench
from foveal.nn.models.weights import read_file
from foveal.nn.whitening import patch_covariance, whiten, whitening_filters
from foveal.train import Options, train
from foveal.train.first_layer import to_be_whitened
from foveal.train.phases import Phases
from foveal.train.recipes import recipe_for
from foveal.train.settings import choose, make_loss
from foveal.train.updates import make_optimizer, make_schedules

RNG = np.random.default_rng(0)
# Steps that are compared, and the images of each.
STEPS, BATCH = 11, 8


def images(count):
    """Smooth images of three classes, as bytes."""
    labels = np.arange(count) % 3
    coarse = RNG.integers(0, 200, (count, 3, 8, 8))
    x = np.kron(coarse, np.ones((4, 4), int))
    x[:, :, 8:16] += 20 * labels[:, None, None, None]
    return x.clip(0, 255).astype("u1"), labels


DATA = from_arrays("photos", *images(96), *images(24))


def network():
    return nn.models.build("airbench94", channels=3, size=(32, 32), classes=3, seed=3)


def batches():
    rng = np.random.default_rng(1)
    return [(rng.standard_normal((BATCH, 3, 32, 32)).astype("f4"), rng.integers(0, 3, BATCH)) for _ in range(STEPS)]


def test_the_recipe_is_the_sources():
    recipe = recipe_for((32, 32), 50_000, preset="airbench94")
    # legacy/airbench94.py: rate and decay per 1,024 images, decoupled, for sums over a batch.
    kilostep = 1024 * (1 + 1 / (1 - 0.85))
    lr, decay = 11.5 / kilostep, 0.0153 * 1024 / kilostep
    assert recipe.lr == pytest.approx(1024 * lr)
    assert recipe.weight_decay == pytest.approx(decay / lr / 1024)
    assert (recipe.lookahead, recipe.norm_bias_lr, recipe.whiten, recipe.ema) == (0.95, 64, 3, None)
    assert (recipe.augment, recipe.tta, recipe.steps) == ("translate+alternate", "shifts+flip", 480)
    settings = choose(DATA, Options(preset="airbench94"))
    optimizer = make_optimizer(network(), settings)
    total = 476
    schedules = make_schedules(optimizer, settings, total, 48)
    warm_up = int(total * 0.23)
    for step in (0, 1, 50, warm_up - 1, warm_up, 300, total - 1):
        after = (step - warm_up) / (total - warm_up)
        rate = 0.2 + 0.8 * step / warm_up if step < warm_up else 1 - after + 0.07 * after
        assert schedules["lr"](step) == pytest.approx(settings.lr * rate)
        assert 1 - schedules["alpha"](step) == pytest.approx(0.95**5 * ((step + 1) / total) ** 3)
    biases = optimizer.parts[0].groups[1]
    assert biases["lr"] == pytest.approx(64 * settings.lr)
    assert biases["lr"] * biases["weight_decay"] == pytest.approx(settings.lr * settings.weight_decay)
    assert sorted(p.name for p in biases.parameters) == [f"group{i}.norm{j}.bias" for i in (1, 2, 3) for j in (1, 2)]


def test_parts_of_the_recipe_belong_to_its_network_and_its_optimiser():
    other = choose(DATA, Options(preset="airbench94", model="small"))
    assert (other.whiten, other.norm_bias_lr, other.lookahead) == (None, None, 0.95)
    assert choose(DATA, Options(preset="airbench94", optimizer="adamw")).norm_bias_lr is None
    averaged = choose(DATA, Options(preset="airbench94", ema=0.9, whiten=0))
    assert (averaged.lookahead, averaged.ema, averaged.whiten) == (None, 0.9, None)
    for wrong, message in [
        ({"lookahead": 1.0}, "lookahead is 1"),
        ({"lookahead": 0.9, "ema": 0.9}, "both averages"),
        ({"norm_bias_lr": 0.0}, "norm_bias_lr is 0"),
        ({"whiten": -1}, "whiten is -1"),
        ({"whiten": 1, "weights": "x.safetensors"}, "whiten would replace the first filters"),
    ]:
        with pytest.raises(ShapeError, match=message):
            choose(DATA, Options(**wrong))


def test_the_first_layer_whitens_patches():
    x = RNG.standard_normal((40, 2, 9, 8)) @ RNG.standard_normal((8, 8))
    filters = whitening_filters([x[:15], x[15:]], (2, 3), eps=1e-3)
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 3), axis=(2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    covariance = patches.T @ patches / len(patches)
    np.testing.assert_allclose(patch_covariance([x], (2, 3)), covariance, rtol=1e-10)
    assert filters.shape == (24, 2, 2, 3)
    assert np.array_equal(filters[12:], -filters[:12])
    out = patches @ filters[:12].reshape(12, 12).T
    values = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(out.T @ out / len(out), np.diag(values / (values + 1e-3)), atol=1e-5)


def test_what_cannot_be_whitened_is_refused():
    x = np.zeros((2, 3, 8, 8))
    with pytest.raises(ShapeError, match=r"16 filters of 3x3x3 .* takes 54"):
        whiten(nn.models.build("resnet20", channels=3, size=(32, 32), classes=3), [x])
    with pytest.raises(ShapeError, match="no convolution"):
        whiten(nn.Linear(3, 2), [x])
    loader = foveal.data.Loader(DATA, batch_size=8)
    with pytest.raises(ArgumentError, match="a Loader gives no images"):
        train(loader, nn.Conv2d(3, 24, 2), whiten=1, quiet=True)
    with pytest.raises(ShapeError, match="no batch norm"):
        optim.faster_norm_biases(nn.Linear(3, 2))


def torch_run(torch, net, settings, total, filters):
    """Return the state of the same network after the same steps, by the source's algorithm in PyTorch."""
    from foveal.bench.torch_models.airbench import airbench94

    functional = torch.nn.functional
    twin = airbench94(3, (32, 32), 3).double()
    twin.load_state_dict({k: torch.tensor(np.array(v)) for k, v in net.state_dict().items()})
    twin.whiten.weight.requires_grad_(False)
    norm_biases = [p for k, p in twin.named_parameters() if "norm" in k and p.requires_grad]
    others = [p for k, p in twin.named_parameters() if "norm" not in k and p.requires_grad]
    lr, decay = settings.lr, settings.weight_decay
    groups = [{"params": norm_biases, "lr": lr * 64, "weight_decay": decay / 64}, {"params": others, "lr": lr}]
    rule = torch.optim.SGD(groups, lr=lr, momentum=0.85, nesterov=True, weight_decay=decay)
    slow = {k: v.clone() for k, v in twin.state_dict().items()}
    warm_up = int(0.23 * total)

    def share(step):
        after = (step - warm_up) / (total - warm_up)
        return 0.2 + 0.8 * step / warm_up if step < warm_up else 1 - after + 0.07 * after

    schedule = torch.optim.lr_scheduler.LambdaLR(rule, share)
    for count, (x, y) in enumerate(batches(), 1):
        # The bias of the first layer is trained in the first six steps.
        twin.whiten.bias.requires_grad_(count <= 6)
        loss = functional.cross_entropy(twin(torch.tensor(x).double()), torch.tensor(y), label_smoothing=0.2)
        rule.zero_grad(set_to_none=True)
        loss.backward()
        rule.step()
        schedule.step()
        if count % 5 == 0:
            keep = 0.95**5 * (count / total) ** 3
            with torch.no_grad():
                for name, value in twin.state_dict().items():
                    if value.dtype == torch.double:
                        slow[name].lerp_(value, 1 - keep)
                        if name != "whiten.bias" or count <= 6:
                            value.copy_(slow[name])
    return {k: v.numpy() for k, v in twin.state_dict().items()}, {k: v.numpy() for k, v in slow.items()}


def test_steps_equal_those_of_the_source(torch, monkeypatch):
    from foveal.bench.torch_models import airbench as twin

    # Fewer channels, which decide nothing here.
    monkeypatch.setattr(airbench, "WIDTHS", (32, 32, 32))
    monkeypatch.setattr(twin, "WIDTHS", (32, 32, 32))
    settings = choose(DATA, Options(preset="airbench94", lr=0.05))
    net, total = network(), 24
    whiten(net, [x for x, _ in batches()])
    before = net.state_dict()["whiten.weight"].copy()
    wanted, slow = torch_run(torch, net, settings, total, before)
    phases = Phases(net, 0, to_be_whitened(net, settings))
    optimizer = make_optimizer(net, settings)
    optimizer.schedule(**make_schedules(optimizer, settings, total, 2))
    step = foveal.compile_step(net, make_loss(settings, None), optimizer, threads=1)
    for i, batch in enumerate(batches()):
        # two steps in an epoch
        phases.begin(i // 2)
        step(*batch)
    found = {name: value.copy() for name, value in net.state_dict().items()}
    assert np.array_equal(found["whiten.weight"], before)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-3 * abs(value).max() + 1e-6, err_msg=name)
    # What is tested and stored are the slow weights.
    with optimizer.averaged():
        for name, value in net.state_dict().items():
            if name != "whiten.bias" and not name.endswith("num_batches_tracked"):
                tolerance = 2e-3 * abs(slow[name]).max() + 1e-6
                np.testing.assert_allclose(value, slow[name], rtol=2e-3, atol=tolerance, err_msg=name)


def small_network():
    nn.seed(2)
    last = nn.Linear(24 * 31 * 31, 3)
    return nn.Sequential(nn.Conv2d(3, 24, 2), nn.BatchNorm2d(24), nn.GELU(), nn.Flatten(), last)


def test_a_run_goes_on_with_its_first_layer(tmp_path):
    options = {"whiten": 2, "lookahead": 0.9, "norm_bias_lr": 4.0, "epochs": 4, "batch_size": 16, "seed": 1}
    options |= {"quiet": True, "threads": 1, "tta": "shifts+flip", "augment": "translate+alternate"}
    options |= {"lr": 0.01, "checkpoint_minutes": 0.0}
    net, cut, biases = small_network(), small_network(), []

    def note(values):
        biases.append(np.array(net[0].bias.data))

    def stop(values):
        if values["epoch"] == 3:
            raise KeyboardInterrupt

    train(DATA, net, out=tmp_path / "whole", callbacks=[note], **options)
    with pytest.raises(KeyboardInterrupt):
        train(DATA, cut, out=tmp_path / "parts", callbacks=[stop], **options)
    again = small_network()
    train(DATA, again, resume=tmp_path / "parts", callbacks=[lambda values: None], **options)
    whole, parts = (read_file(tmp_path / name / "model.safetensors")[1] for name in ("whole", "parts"))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole | parts)
    # Of the first training images, normalised.
    mean, std = (np.array(value)[:, None, None] for value in (DATA.mean, DATA.std))
    wanted = whitening_filters([(DATA.images_train / 255 - mean) / std], (2, 2))
    np.testing.assert_allclose(whole["0.weight"], wanted, rtol=1e-3, atol=1e-5)
    assert not net[0].weight.trainable
    # The bias is trained in two epochs.
    assert not np.array_equal(biases[0], biases[1])
    assert np.array_equal(biases[1], biases[3])
