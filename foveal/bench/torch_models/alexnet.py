"""AlexNet: torchvision.models.alexnet."""

from torch import nn

from foveal.bench.torch_models.blocks import Head

# Width of the linear layers.
HIDDEN = 4096


def alexnet(channels: int, classes: int) -> nn.Module:
    """foveal.nn.models.AlexNet with dropout 0"""
    # Filters, with the layers that reduce the image between them.
    features = nn.Sequential(
        nn.Conv2d(channels, 64, kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    classifier = nn.Sequential(
        nn.Dropout(0.0),
        nn.Linear(256 * 6 * 6, HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, classes),
    )
    return Head(features, classifier, pool=6)
