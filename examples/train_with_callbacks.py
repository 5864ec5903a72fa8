"""train.train with a network of one's own: validation, early stopping, the best checkpoint, a callback, the history.

Data may be arrays, as here, a Dataset, a Loader, or any sequence of (image, label); a tenth of them is held out. The
table of what a callback gets is in help(foveal.train.callbacks).
"""

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from foveal import nn, optim, train

digits = load_digits()
images, labels = (digits.images / 16).astype("float32"), digits.target

nn.seed(0)
net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 4 * 4, 10))
path = Path(tempfile.mkdtemp()) / "best.safetensors"
losses = []


class StepLosses(train.Callback):
    """Keeps the loss of each step; on_epoch_end, on_train_begin and on_train_end are there too."""

    def on_step_end(self, values):
        losses.append(values["loss"])


history = train.train(
    (images[:1500], labels[:1500]),
    net,
    optimizer=optim.AdamW(net.parameters(), lr=0.003),
    epochs=20,
    batch_size=50,
    validation=0.1,
    callbacks=[
        train.EarlyStopping("validation loss", patience=2, min_delta=0.02, restore_best=True),
        train.BestCheckpoint(path, "validation loss", min_delta=0.02),
        StepLosses(),
        lambda values: print(f"epoch {values['epoch']}: validation loss {values['validation loss']:.3f}"),
    ],
    quiet=True,
)
print(history)
print(f"{len(losses)} steps; the network is that of epoch {history['restored_epoch']} again")

net.eval()
accuracy = np.mean(net(images[1500:, None]).argmax(axis=1) == labels[1500:])
print(f"accuracy on images that were not seen: {accuracy:.1%}")
assert accuracy > 0.85
assert all(np.array_equal(array, net.state_dict()[name]) for name, array in load_file(path).items())
