"""A schedule, a loss and an augmentation of one's own, in one training loop.

A schedule is a function of the step's number, a loss is written with operators, an augmentation is a function of a
batch of images and a random generator. None needs to be registered anywhere.
"""

import numpy as np

import foveal
from foveal import data, nn, ops, optim

EPOCHS, BATCH = 4, 100


def triangle(step):
    """Up along a line in 20 steps, then down to 0."""
    return 0.05 * min((step + 1) / 20, max(0.0, 1 - step / (EPOCHS * 14)))


class Smoothed(nn.Loss):
    """-sum_k q_k log p_k, where the target has the share 1 - smooth of q, and all classes have the rest alike"""

    def __init__(self, classes, smooth=0.1):
        super().__init__()
        self.classes, self.smooth = classes, smooth

    def __call__(self, output, target):
        q = ops.one_hot(target, classes=self.classes) * (1 - self.smooth) + self.smooth / self.classes
        return self.reduce(ops.sum(q * ops.log_softmax(output, axis=1), axes=1) * -1.0)

    def check(self, target, output):
        if output[1] != self.classes:
            raise ValueError(f"Smoothed: the model has {output[1]} outputs, for {self.classes} classes")


def noise(x, rng):
    """Adds grey noise to images [n, C, H, W] in 0 to 1."""
    return np.clip(x + 0.1 * rng.standard_normal(x.shape), 0, 1).astype(x.dtype)


nn.seed(0)
digits = data.load("digits")
net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
optimizer = optim.Momentum(net.parameters(), lr=0.05)
optimizer.schedule(lr=triangle)
step = foveal.compile_step(net, Smoothed(10), optimizer)
options = {"mean": digits.mean, "std": digits.std, "shuffle": True, "drop_last": True}
loader = data.Loader(digits.images_train, digits.y_train, BATCH, augment=noise, **options)
for epoch in range(EPOCHS):
    losses = [step(x, y).loss for x, y in loader.epoch(epoch)]
    print(f"epoch {epoch}: loss {np.mean(losses):.3f}, rate {optimizer.lr:.4f}")
test = data.normalise(digits.images_test, digits.mean, digits.std)
accuracy = np.mean(net(test).argmax(axis=1) == digits.y_test)
print(f"accuracy {accuracy:.1%}")
assert accuracy > 0.85
