"""The networks of the course's assignment: a plain convolutional network, and a residual one, trained on CIFAR-10.

    python examples/assignment.py FOLDER --model vanilla    # FOLDER: CIFAR-10, its binary version
    python examples/assignment.py FOLDER --model residual

Without a folder both learn scikit-learn's digits for a few seconds. docs/results.md has the accuracies and the times on
CIFAR-10; assignment_numpy.py times a step of the first one in plain NumPy.
"""

import argparse
import time
from itertools import pairwise

from foveal import data, nn, train

BATCH = 128
# Epochs, the peak of the learning rate, how much of the target is spread over all classes; the accuracy to reach.
RECIPES = {"vanilla": (6, 0.1, 0.0, 0.6), "residual": (4, 0.3, 0.1, 0.8)}


class Residual(nn.Module):
    """y = h + f(h), h = relu(norm(pool(conv(x)))), f two convolutions, each with batch norm and relu (He et al. 2016)

    x [N, inputs, H, W] -> y [N, outputs, H / 2, W / 2]. The pooling comes first, so that the rest has a quarter of the
    work; so do the blocks of D. Page's ResNet-9 (How to train your ResNet, 2018).
    """

    def __init__(self, inputs, outputs):
        self.down = nn.Sequential(conv(inputs, outputs), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU())
        layers = [[conv(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()] for _ in range(2)]
        self.body = nn.Sequential(*layers[0], *layers[1])

    def forward(self, x):
        h = self.down(x)
        return h + self.body(h)


def conv(inputs, outputs):
    """A 3x3 convolution that keeps the image's size; batch norm behind it has the bias."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def vanilla(channels, size, classes, widths=(16, 32, 64), hidden=128):
    """Convolution, batch norm, relu and pooling for each width, then two linear layers; images of size x size."""
    layers = []
    for inputs, outputs in pairwise((channels, *widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    pixels = (size // 2 ** len(widths)) ** 2
    layers += [nn.Flatten(), nn.Linear(widths[-1] * pixels, hidden)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(hidden, classes))


def residual(channels, size, classes, widths=(16, 64, 128, 128)):
    """A convolution, a residual block for each further width, the maximum over all pixels, a linear layer."""
    first = conv(channels, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU()
    blocks = [Residual(inputs, outputs) for inputs, outputs in pairwise(widths)]
    return nn.Sequential(*first, *blocks, nn.GlobalMaxPool2d(), nn.Flatten(), nn.Linear(widths[-1], classes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the networks of the course's assignment.")
    parser.add_argument("folder", nargs="?", default="digits", help="CIFAR-10, its binary version; digits if not given")
    parser.add_argument("--model", choices=RECIPES, action="append", help="one of the networks; both if not given")
    parser.add_argument("--out", help="a folder for the models and logs")
    parser.add_argument("--threads", type=int, help="all that this process may run on, if not given")
    options = parser.parse_args()
    for name in options.model or RECIPES:
        began = time.perf_counter()
        dataset = data.load(options.folder)
        nn.seed(0)
        epochs, lr, smoothing, aim = RECIPES[name]
        net = {"vanilla": vanilla, "residual": residual}[name](dataset.channels, dataset.size[0], len(dataset.classes))
        run = {"threads": options.threads, "out": options.out and f"{options.out}/{name}"}
        history = train.train(dataset, net, epochs=epochs, lr=lr, batch_size=BATCH, label_smoothing=smoothing, **run)
        accuracy, seconds = history["test"]["accuracy"], time.perf_counter() - began
        print(f"{name}: test accuracy {accuracy:.2%} after {seconds:.0f} s, with reading the data and compiling")
        assert accuracy > aim
