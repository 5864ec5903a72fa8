"""Starting from what others learned: a net trained on some classes makes others easy; what is frozen stays as it is."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from foveal import data, nn, optim, train
from foveal.errors import ArgumentError, DataError, ShapeError, StateError
from foveal.nn import models
from foveal.nn.models.recognise import recognised
from foveal.train import phases
from foveal.train.start import start_of

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (24, 1, 8, 8)).astype("uint8")
LABELS = np.arange(24) % 3
QUIET = {"quiet": True, "threads": 1}


def data_set(classes=("a", "b", "c"), images=IMAGES):
    return data.from_arrays("set", images, LABELS, images[:6], LABELS[:6], classes=list(classes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of the network "small" on grey images of 8x8."""
    out = tmp_path_factory.mktemp("run")
    train.train(data_set(), model="small", epochs=1, seed=1, out=out, **QUIET)
    return out


def test_the_model_of_a_file_is_recognised(tmp_path):
    for name, prefix in (("small", ""), ("resnet20", "module.")):
        state = models.build(name, channels=3, size=(32, 32), classes=7).state_dict()
        save_file({prefix + n: v for n, v in state.items()}, tmp_path / "file.safetensors")
        assert recognised(tmp_path / "file.safetensors") == (name, 3)
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "file.safetensors")
    with pytest.raises(StateError, match=r"the weights of none of the models here, .*; nearest: resnet20 \(9\d% of"):
        recognised(tmp_path / "file.safetensors")


def test_frozen_layers_keep_their_parameters_and_statistics_and_thaw_later(run, tmp_path):
    before = train.load_run(run)[1]
    kept = {}

    def look(values):
        found = train.load_run(tmp_path / "tuned")[1]
        kept[values["epoch"]] = {name for name in found if np.array_equal(found[name], before.get(name))}

    how = {"epochs": 3, "freeze_epochs": 2, "augment": None, "lr": 0.01, "out": tmp_path / "tuned", **QUIET}
    train.train(data_set("xyz"), weights=run, callbacks=[look], **how)
    body = {name for name in before if not name.startswith("fc.")}
    assert kept[1] == kept[2] == body
    assert not kept[3] & body


def test_the_last_layer_of_the_same_classes_is_loaded_and_nothing_is_frozen(run):
    assert train.train(data_set(), weights=run, epochs=1, **QUIET)["freeze_epochs"] == 0
    start = start_of(data_set(), train.Options(weights=run))
    other = start_of(data_set("xyz"), train.Options(weights=run))
    net = models.build("small", channels=1, size=(8, 8), classes=3, seed=5)
    fresh = net.fc.weight.numpy().copy()
    other.load_into(net, data_set("xyz"))
    assert np.array_equal(net.fc.weight.numpy(), fresh)
    start.load_into(net, data_set())
    assert np.array_equal(net.fc.weight.numpy(), train.load_run(run)[1]["fc.weight"])


def test_pixels_are_normalised_as_the_weights_expect(run, tmp_path):
    darker = data_set("xyz", IMAGES // 2)
    train.train(darker, weights=run, epochs=1, out=tmp_path, **QUIET)
    assert train.load_run(tmp_path)[0].mean == train.load_run(run)[0].mean != darker.mean
    assert data.transforms_of(run).mean == data.transforms_of(tmp_path).mean
    signed = data.from_arrays("s", IMAGES / 64.0 - 2, LABELS, IMAGES / 64.0 - 2, LABELS)
    with pytest.raises(DataError, match="the weights expect pixels from 0 to 1, those of s go from -2 to"):
        train.train(signed, weights=run, epochs=1, **QUIET)


def test_weights_for_colour_see_grey_as_equal_colours(tmp_path):
    colour = models.build("small", channels=3, size=(8, 8), classes=3, seed=2).eval()
    save_file(colour.state_dict(), tmp_path / "colour.safetensors")
    grey = models.build("small", channels=1, size=(8, 8), classes=3, seed=3).eval()
    start = start_of(data_set(), train.Options(weights=tmp_path / "colour.safetensors"))
    assert (start.model, start.channels, start.preprocessing) == ("small", 3, None)
    start.load_into(grey, data_set())
    x = RNG.random((4, 1, 8, 8)).astype("f4")
    colours = np.repeat(x, 3, 1)
    for layer in ("conv1", "bn4"):
        expected, found = (net.activations(v, [layer])[layer] for net, v in ((colour, colours), (grey, x)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert "the first filters are the sum of those for colour" in "\n".join(start.notes(data_set()))


def test_a_run_goes_on_to_the_same_bits_from_both_phases(run, tmp_path):
    how = {"epochs": 4, "freeze_epochs": 2, "weights": run, "seed": 3, "batch_size": 8, **QUIET}
    go_on = lambda values: True  # noqa: E731
    nets = {stop: models.build("small", channels=1, size=(8, 8), classes=3, seed=stop) for stop in (0, 1, 2, 3)}
    train.train(data_set("xyz"), nets[0], **how)
    for stop in (1, 2, 3):
        file = tmp_path / f"{stop}.safetensors"
        stopped = models.build("small", channels=1, size=(8, 8), classes=3, seed=0)

        def end(values, stop=stop):
            return values["epoch"] < stop

        train.train(data_set("xyz"), stopped, callbacks=[train.SaveState(file), end], **how)
        # whoever resumes gives the same callbacks, since they have a state
        train.train(data_set("xyz"), nets[stop], callbacks=[train.SaveState(file), go_on], resume=file, **how)
        for name, value in nets[0].state_dict().items():
            assert np.array_equal(value, nets[stop].state_dict()[name]), (stop, name)


def test_rates_rise_by_depth_and_the_schedule_begins_again():
    net = models.build("small", channels=1, size=(8, 8), classes=3)
    for name in optim.NAMES:
        assert set(optim.build(name, phases.layer_groups(net), lr=0.1).parameters) == set(net.parameters())
    factors = [group["lr_factor"] for group in phases.layer_groups(net)]
    assert factors == sorted(factors)
    assert (factors[0], factors[-1]) == (phases.LOWEST, 1.0)
    assert phases.heads_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3), nn.ReLU())) == ("2",)
    rate = phases.in_phases(lambda total: optim.schedule.one_cycle(1.0, total), 12, 4)
    assert [rate(step) for step in range(12)] == [
        *(optim.schedule.one_cycle(1.0, 4)(step) for step in range(4)),
        *(optim.schedule.one_cycle(1.0, 8)(step) for step in range(8)),
    ]


def test_what_does_not_go_together_is_one_error(run):
    with pytest.raises(ArgumentError, match="weights and pretrained are both given; a run starts from one of them"):
        train.train(data_set(), weights=run, pretrained="resnet18", **QUIET)
    with pytest.raises(ArgumentError, match="weights need a Dataset, which says how many classes there are"):
        train.train((IMAGES, LABELS), weights=run, **QUIET)
    with pytest.raises(ShapeError, match="freeze_epochs is 3: it has to be from 0 to 2, the number of epochs"):
        train.train(data_set(), weights=run, epochs=2, freeze_epochs=3, **QUIET)
    with pytest.raises(DataError, match=r"nowhere.safetensors: there is no such file"):
        train.train(data_set(), weights="nowhere.safetensors", **QUIET)
    images = np.zeros((4, 28, 28), "u1")
    big = data.from_arrays("big", images, [0, 1, 2, 0], images, [0, 1, 2, 0])
    with pytest.raises(StateError, match="does not fit this LeNet5"):
        train.train(big, model="lenet5", weights=run, **QUIET)
