"""Pictures of a training, and results that show themselves: each plot is a Matplotlib figure, written to a folder here.

In a notebook a figure, a network, a summary or a report is shown when it is the last line of a cell. Matplotlib is an
extra, pip install 'foveal[plot]'; without it this example says so.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import foveal
from foveal import explain, metrics, nn, optim, train
from foveal.errors import PackageError

digits = load_digits()
images, labels = (digits.images / 16).astype("float32")[:, None], digits.target
nn.seed(0)
net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))
step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=0.01), seed=0)
batches = [slice(i, i + 50) for i in range(0, 1500, 50)]
losses = [np.mean([step(images[batch], labels[batch]).loss for batch in batches]) for _ in range(5)]

logits = net.eval()(images[1500:])
report = train.classification_report(logits, labels[1500:], [str(k) for k in range(10)])
print(report)  # tables, and a dict as well
probabilities = np.exp(metrics.log_softmax(logits))
try:
    figures = {
        "history": metrics.plot_history({"train": {"loss": losses}}),
        "confusion": metrics.plot_confusion(report),
        "roc": metrics.plot_roc(labels[1500:], probabilities),
        "calibration": metrics.plot_calibration(probabilities, labels[1500:]),
        "filters": nn.plot_filters(net),
        "maps": nn.plot_feature_maps(net, images[0], ["0", "2"]),
        "field": explain.plot_receptive_field(net, images[0], layer="2", at=(1, 1)),
        "saddle": optim.plot_trajectory(["sgd", "momentum", ("adam", {"lr": 0.05})], "saddle", start=(1.0, 0.001)),
    }
except PackageError as error:
    print(error)
else:
    folder = Path(tempfile.mkdtemp())
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    print(f"{len(figures)} pictures are in {folder}")
    assert all((folder / f"{name}.png").stat().st_size > 5000 for name in figures)
assert report["accuracy"] > 0.85
