"""Each row of docs/pytorch.md runs, on the side of Foveal and, where it is installed, of PyTorch."""

import re
import sys

import pytest
from shared import ROOT

import foveal

PAGE = (ROOT / "docs/pytorch.md").read_text()
ROWS = [line.strip("| ").split(" | ")[:2] for line in PAGE.splitlines() if line.startswith("| `")]
(BEGINNING,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
# What rows use beside the page's beginning: a file, an array, a hook, a step that was made.
HERE = """
a, hook = x, lambda module, inputs, output: None
step = foveal.compile_step(net, loss_fn, optimizer)
"""
THERE = """
from collections import OrderedDict
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
x, y = torch.rand(8, 1, 8, 8), torch.randint(0, 3, (8,))
loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
a, hook = x.numpy(), lambda module, inputs, output: None
f = lambda x: (torch.sin(x) ** 2).sum()
"""


@pytest.fixture(autouse=True)
def settings_come_back():
    """Rows set numbers of threads, and that PyTorch refuses what is not deterministic, for the whole process."""
    threads = foveal.get_threads()
    yield
    foveal.set_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].use_deterministic_algorithms(False)


def run(beginning, cell, path, *, stored):
    """Run a cell. stored: how the file that it reads is written, by what is in the cell."""
    names = {"path": path}
    exec(beginning, names)
    for inside, code in stored:
        if inside in cell:
            exec(code, names)
    exec(cell.strip("`"), names)


def test_the_page_has_forty_rows():
    assert len(ROWS) >= 40


@pytest.mark.parametrize("cell", [here for _, here in ROWS])
def test_what_is_written_here_runs(cell, tmp_path):
    stored = ("load_file(", "save_file(net.state_dict(), path)"), ("foveal.load(", "net.save(path)")
    run(BEGINNING + HERE, cell, tmp_path / "net.safetensors", stored=stored)


# PyTorch's own deprecated parts warn when torch.compile imports them.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("cell", [there for there, _ in ROWS])
def test_what_is_written_there_runs(cell, tmp_path):
    pytest.importorskip("torch")
    stored = ("weights_only", "torch.save(net, path)"), ("load(path))", "torch.save(net.state_dict(), path)")
    run(THERE, cell, tmp_path / "net.pt", stored=stored)
