"""A network with two inputs and two outputs: an image and a few numbers in, a class and a size out.

`forward` takes as many arrays as there are, and returns them in a tuple, a list or a dict. A training step takes inputs
and targets as a tuple, a list or a dict, and the loss is a function of both, written with losses of foveal.nn.
"""

import numpy as np

import foveal
from foveal import nn, ops, optim


class TwoHeads(nn.Module):
    def __init__(self):
        self.image = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16))
        self.numbers = nn.Linear(3, 16)
        self.label, self.size = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, image, numbers, scale=1.0):
        # [N, 16] from both inputs
        joined = ops.relu(self.image(image) + self.numbers(numbers) * scale)
        return {"label": self.label(joined), "size": self.size(joined)}


cross_entropy, squares = nn.CrossEntropyLoss(), nn.MSELoss()


def loss(outputs, targets):
    return cross_entropy(outputs["label"], targets["label"]) + 0.5 * squares(outputs["size"], targets["size"])


nn.seed(0)
net = TwoHeads()
step = foveal.compile_step(net, loss, optim.Adam(net.parameters(), lr=0.01))

# The label says whether the image is bright; the size is the sum of the numbers.
rng = np.random.default_rng(0)
images, numbers = rng.standard_normal((64, 1, 8, 8), "float32"), rng.standard_normal((64, 3), "float32")
labels = (images.mean(axis=(1, 2, 3)) > 0).astype("int32")
targets = {"label": labels, "size": numbers.sum(axis=1, keepdims=True)}
results = [step((images, numbers), targets) for _ in range(150)]
print(f"loss: {results[0].loss:.3f} at first, {results[-1].loss:.3f} after {len(results)} steps")

found = net(images, numbers)
right = (found["label"].argmax(axis=1) == labels).mean()
print(f"labels: {right:.0%} right; sizes: {np.abs(found['size'] - targets['size']).mean():.3f} off on average")
assert right > 0.95
assert results[-1].loss < 0.1
# An option is no array: it is compiled in. With scale=0 the numbers do not count.
assert np.array_equal(net(images, numbers, scale=0)["label"], net(images, numbers[::-1], scale=0)["label"])
