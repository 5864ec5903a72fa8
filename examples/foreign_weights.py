"""Weights from elsewhere: the checkpoint of a wrapped network in half precision, and one that does not fit.

A network that was trained with DistributedDataParallel and torch.compile has `module._orig_mod.` before all of its
names. `load_state_dict` takes a dictionary, of PyTorch's tensors too, or the path of a safetensors file; nn.models.load
takes such files in the same way.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from foveal import nn
from foveal.errors import StateError


def network(seed):
    nn.seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


trained, fresh = network(seed=1), network(seed=2)
images = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype("float32")
halves = {f"module._orig_mod.{name}": value.astype("float16") for name, value in trained.state_dict().items()}
# older versions of PyTorch do not store it
del halves["module._orig_mod.1.num_batches_tracked"]

with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    path = Path(folder) / "wrapped.safetensors"
    save_file(halves, path)
    print(fresh.load_state_dict(path))
print(said[0].message)
assert np.allclose(fresh(images), trained(images), atol=1e-2)

# What does not fit is listed with the nearest names, and nothing is changed.
state = trained.state_dict()
state["4.biases"] = state.pop("4.bias")
try:
    fresh.load_state_dict(state)
except StateError as error:
    print(error)
missing, unexpected = fresh.load_state_dict(state, strict=False)
assert (missing, unexpected) == (["4.bias"], ["4.biases"])
