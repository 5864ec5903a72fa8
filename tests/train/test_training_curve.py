"""Training follows PyTorch: ResNet-20 on CIFAR-10 from the same weights, on the same batches, with the same optimiser.

Every second pixel of every second row is taken, which is a quarter of the work; test_bench.py and test_models.py
compare steps on whole images.

What is compared, and why: single losses only at the start, means later. Training a residual network with batch norm
multiplies a difference of rounding by about 2 a step at first, so that after 30 steps single losses of two right
programs, PyTorch's own two memory formats among them, lie per cents apart. The mean of the last 20 of 100 steps, at a
rate of 0.005, was within 1 % of PyTorch's for four seeds. LIMIT is twice that.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from foveal.data import load

STEPS, BATCH, RATE = 100, 32, 0.005
FIRST, FIRST_LIMIT = 5, 1e-3
LAST, LIMIT = 20, 0.02


@pytest.fixture(scope="module")
def curve():
    pytest.importorskip("torch", reason="PyTorch is not installed (pip install -e '.[dev,compare]')")
    from foveal.bench import loss_curve

    return loss_curve


@pytest.mark.long
def test_losses_follow_torch(curve, cifar10):
    data = load(cifar10)
    train, test = (np.ascontiguousarray(x[:, :, ::2, ::2]) for x in (data.images_train, data.images_test))
    data = replace(data, images_train=train, images_test=test)
    # one thread: those of two libraries would wait for each other, and for the tests beside them
    steps = curve.curves(data, model="resnet20", batch_size=BATCH, lr=RATE, threads=1)
    losses = list(itertools.islice(steps, STEPS))
    for ours, theirs in losses[:FIRST]:
        assert ours == pytest.approx(theirs, rel=FIRST_LIMIT)
    ours, theirs, difference = curve.means(losses[-LAST:])
    assert theirs < 0.9 * math.log(10), "PyTorch learned nothing, so the comparison says nothing"
    assert abs(difference) <= LIMIT, f"the last {LAST} losses are {ours:.4f} in the mean, PyTorch's {theirs:.4f}"
