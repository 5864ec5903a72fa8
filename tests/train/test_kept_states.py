"""The states that a run has kept, and what is said where it has not kept them."""

import numpy as np
import pytest

from foveal import data, nn, train
from foveal.errors import DataError
from foveal.train.checkpoints import CHECKPOINTS, LAST

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.random((30, 1, 8, 8), np.float32), np.arange(30) % 3


def run(folder, net="small", **more):
    """Train in a folder; three steps in an epoch, a checkpoint after each."""
    options = {"epochs": 2, "batch_size": 10, "checkpoint_minutes": 0.0, "quiet": True, "seed": 5, **more}
    train.train(data.from_arrays("set", IMAGES, LABELS, IMAGES[:6], LABELS[:6]), net, out=folder, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "run"
    # The average of the parameters is what is left, so that no checkpoint holds the same.
    run(folder, ema=0.9)
    return folder


def test_a_run_keeps_its_last_checkpoints_and_its_model_and_its_start_is_drawn_again(folder):
    kept = train.kept_states(folder)
    assert list(kept.states) == ["start", "after epoch 2", "trained"]
    assert kept.missing == ()
    trained = train.load_run(folder)[1]
    for name, value in kept.states["trained"].items():
        np.testing.assert_array_equal(value, trained[name])
    # A step so small that it changes nothing leaves the model where it started.
    still = folder.parent / "still"
    run(still, optimizer="sgd", lr=1e-18, schedule="constant", weight_decay=0.0, epochs=1)
    parameters = [name for name, _ in train.load_net(still)[0].named_parameters()]
    for name in parameters:
        np.testing.assert_allclose(kept.states["start"][name], train.load_run(still)[1][name], atol=1e-12)
    assert any((kept.states["start"][name] != kept.states["trained"][name]).any() for name in parameters)


def test_what_a_run_does_not_hold_is_said(folder, tmp_path):
    checkpoint = folder / CHECKPOINTS / LAST
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-1] + b"\0" if content[-1] else content[:-1] + b"\1")
    kept = train.kept_states(folder)
    checkpoint.write_bytes(content)
    # The one before it was written when the last step was done, before the epoch was measured.
    assert list(kept.states) == ["start", "after step 3 of epoch 2", "trained"]
    assert any("damaged, its checksum does not fit" in text for text in kept.missing)
    with pytest.raises(DataError, match="not a run"):
        train.kept_states(tmp_path)


def test_a_start_that_is_not_drawn_from_the_seed_is_not_made_up(folder, tmp_path):
    nn.seed(0)
    run(tmp_path / "own", nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    run(tmp_path / "tuned", None, weights=folder, epochs=1)
    expected = {"own": "the network is one of your own", "tuned": "the run began with weights (weights: "}
    for name, why in expected.items():
        kept = train.kept_states(tmp_path / name)
        assert "start" not in kept.states
        assert any(why in text for text in kept.missing)
