"""The plain network of the course's assignment in NumPy, trained beside Foveal's from the same start; their times.

    python examples/assignment_numpy.py FOLDER    # FOLDER: CIFAR-10, its binary version

The losses agree step by step. The time of a step is then multiplied by the steps of assignment.py's whole training.
Without a folder the images are scikit-learn's digits.
"""

import sys
import time
from itertools import islice

import assignment_layers as plain
import assignment_windows as windows
import numpy as np
from assignment import BATCH, RECIPES, vanilla

import foveal
from foveal import data, nn, optim

# Of each kind of layer the function and its gradient.
PAIRS = {
    nn.Conv2d: (windows.convolution, windows.convolution_backward),
    nn.BatchNorm2d: (plain.batch_norm, plain.batch_norm_backward),
    nn.ReLU: (plain.relu, plain.relu_backward),
    nn.MaxPool2d: (windows.max_pool, windows.max_pool_backward),
    nn.Linear: (plain.linear, plain.linear_backward),
}


def in_numpy(net):
    """Return the layers of a network as (forward, backward, parameters), with copies of its parameters.

    The linear layer takes images as they are, so that nn.Flatten has none beside it.
    """
    parts = [part for part in net if type(part) is not nn.Flatten]
    return [(*PAIRS[type(part)], [p.data.copy() for p in part.parameters()]) for part in parts]


def numpy_step(layers, x, labels, lr):
    """Go one step down the gradient of the loss of a batch, and return the loss."""
    inputs = []
    for forward, _, parameters in layers:
        inputs.append(x)
        x = forward(x, *parameters)
    dy = plain.cross_entropy_backward(x, labels)
    for _, backward, parameters in reversed(layers):
        dy, *gradients = backward(dy, inputs.pop(), *parameters)
        for p, dp in zip(parameters, gradients, strict=True):
            p -= lr * dp
    return plain.cross_entropy(x, labels)


def timed(steps, batches):
    """Return the losses of the batches, and the median time of a step without the first one, which compiles."""
    losses, times = [], []
    for x, y in batches:
        start = time.perf_counter()
        losses.append(steps(x, y))
        times.append(time.perf_counter() - start)
    return losses, np.median(times[1:])


if __name__ == "__main__":
    dataset = data.load(sys.argv[1] if sys.argv[1:] else "digits")
    batches = list(islice(data.Loader(dataset, batch_size=BATCH, shuffle=True, drop_last=True), 3))
    nn.seed(0)
    net = vanilla(dataset.channels, dataset.size[0], len(dataset.classes))
    layers = in_numpy(net)
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.05))
    own, slow = timed(lambda x, y: numpy_step(layers, x, y, 0.05), batches)
    right, fast = timed(lambda x, y: step(x, y).loss, batches)
    np.testing.assert_allclose(own, right, rtol=1e-3)
    count = RECIPES["vanilla"][0] * (len(dataset.x_train) // BATCH)
    for name, each in (("NumPy", slow), ("Foveal", fast)):
        print(f"{name}: {1e3 * each:.1f} ms for a step of {BATCH} images, {each * count:.0f} s for {count:,} steps")
