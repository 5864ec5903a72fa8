"""foveal bench curve: what it prints."""

import importlib.util
import sys

import pytest
from click.testing import CliRunner

from foveal.cli import main


def invoke(*words):
    return CliRunner().invoke(main, ["bench", *map(str, words)])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_loss_curves_are_printed_as_means(monkeypatch):
    from foveal.bench import loss_curve

    monkeypatch.setattr(loss_curve, "curves", lambda data, **options: iter([(1.0, 2.0), (5.0, 2.0)] * 9))
    result = invoke("curve", "digits", "--batch-size", 400, "--every", 2)
    assert result.exit_code == 0, result.output
    first, _, *lines = result.stdout.splitlines()
    assert first.endswith("; 3 steps of 400 images")
    assert [line.split() for line in lines] == [
        ["2", "3.0000", "2.0000", "+50.00%"],
        ["3", "1.0000", "2.0000", "-50.00%"],
    ]
    result = invoke("curve", "digits", "--model", "nix")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no model 'nix'; choose from lenet5, alexnet" in result.stderr


def test_loss_curves_need_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = invoke("curve", "digits")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "PyTorch is not installed; pip install" in result.stderr
