"""Fine-tuning: a network that was trained on some classes learns others from few images.

Here a small network learns the digits 0 to 4, is saved, and is loaded with a new last layer for the digits 5 to 9, of
which it sees 100 images. With real weights it is the same two lines: nn.models.load("resnet50", FILE, classes=5,
head="skip").
"""

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

import foveal
from foveal import nn, optim

digits = load_digits()
images, labels = (digits.images / 16).astype("float32")[:, None], digits.target
low, high = labels < 5, labels >= 5


def train(net, images, labels, steps, lr):
    """Train what is trainable with batches of 50 images; returns the last loss."""
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Nesterov(net.parameters(), lr=lr), seed=0)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = rng.choice(len(images), 50, replace=False)
        result = step(images[batch], labels[batch])
    return result.loss


nn.seed(0)
net = nn.models.build("small", channels=1, size=(8, 8), classes=5, seed=0)
print(f"digits 0 to 4: loss {train(net, images[low], labels[low], 60, 0.05):.3f}")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "low.safetensors"
    save_file(net.state_dict(), path)
    tuned = nn.models.build("small", channels=1, size=(8, 8), classes=5, seed=1)
    print(nn.models.load_weights(tuned, path, head="skip"))

few, rest = images[high][:100], images[high][100:]
few_labels, rest_labels = labels[high][:100] - 5, labels[high][100:] - 5
# First the new last layer alone, so that its large gradients at the start leave the features as they are; then all
# layers.
for stage, prefix, lr in (("last layer", "fc.", 0.05), ("all layers", "", 0.02)):
    for parameter in tuned.parameters():
        parameter.trainable = parameter.name.startswith(prefix)
    tuned.train()
    loss = train(tuned, few, few_labels, 60, lr)
    tuned.eval()
    accuracy = np.mean(tuned(rest).argmax(axis=1) == rest_labels)
    print(f"digits 5 to 9, {stage}: loss {loss:.3f}, accuracy on {len(rest)} images not seen {accuracy:.1%}")
assert accuracy > 0.8
