"""A network of one's own in a run: evaluate and predict build it from its class, which the user names."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import foveal
from foveal.cli import main
from foveal.data import from_arrays
from foveal.train import train

CODE = """
from foveal import nn, ops


class Own(nn.Module):
    def __init__(self, width):
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.last(ops.relu(self.first(x.reshape(x.shape[0], -1))))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run, its data, its code and an image; the class is not imported afterwards."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, 60)
    images = np.zeros((60, 1, 8, 8), "uint8")
    images[np.arange(60), 0, rows * 2] = 255
    np.savez(tmp_path / "rows.npz", x_train=images, y_train=rows, x_test=images[:9], y_test=rows[:9])
    (tmp_path / "own_network.py").write_text(CODE)
    Image.fromarray(images[0, 0]).save(tmp_path / "image.png")
    space = {"__name__": "own_network"}
    exec(CODE, space)
    data = from_arrays("rows", images, rows, images[:9], rows[:9])
    train(data, model=space["Own"](8), out=tmp_path / "run", epochs=1, batch_size=20, quiet=True)
    monkeypatch.chdir(tmp_path)
    # What is imported meanwhile is gone afterwards.
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield data
    sys.modules.pop("own_network", None)


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_evaluate_and_predict_take_the_class_from_code_that_the_user_names(run):
    commands = ["evaluate", "run", "rows.npz"], ["predict", "run", "image.png"]
    for command in commands:
        refused = invoke(*command)
        assert refused.exit_code == 2
        assert "class Own of own_network, which this process has not imported" in refused.output
        assert "--code FILE" in refused.output
    for command in commands:
        done = invoke(*command, "--json", "--code", "own_network.py")
        assert done.exit_code == 0, done.output
        json.loads(done.output)
    failing = invoke("evaluate", "run", "rows.npz", "--code", "no_such_module")
    assert failing.exit_code == 2
    assert "--code no_such_module: cannot be imported (ModuleNotFoundError" in failing.output


def test_the_folder_of_a_run_loads_with_its_network(run):
    space = {"__name__": "own_network"}
    exec(CODE, space)
    classifier = foveal.load("run", cls=space["Own"])
    assert classifier.net(run.x_test).shape == (9, 3)
    assert len(classifier(run.images_test)) == 9
