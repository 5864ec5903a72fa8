"""AlexNet (Krizhevsky, Sutskever, Hinton 2012), as of Krizhevsky 2014 on one device, with torchvision's names."""

from foveal.nn.activation import ReLU
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.dropout import Dropout
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import Size, check_size
from foveal.nn.module import Module
from foveal.nn.pool import AdaptiveAvgPool2d, MaxPool2d
from foveal.ops.op import Tensor

# rows and columns of what the classifier sees, and the width of its layers
GRID, HIDDEN = 6, 4096
# the smallest image of which the last pooling leaves a pixel
SMALLEST = 63


class AlexNet(Module):
    """Images [N, channels, H, W] of 63x63 and more (224x224 in the paper) -> logits [N, classes].

    The shapes below are those of 224x224.
    """

    heads = ("classifier.6",)

    def __init__(self, channels: int = 3, size: Size = (224, 224), classes: int = 1000, dropout: float = 0.5) -> None:
        check_size("alexnet", size, SMALLEST)
        self.features = Sequential(
            Conv2d(channels, 64, 11, stride=4, padding=2),
            ReLU(),
            # [N, 64, 27, 27]
            MaxPool2d(3, stride=2),
            Conv2d(64, 192, 5, padding=2),
            ReLU(),
            # [N, 192, 13, 13]
            MaxPool2d(3, stride=2),
            Conv2d(192, 384, 3, padding=1),
            ReLU(),
            Conv2d(384, 256, 3, padding=1),
            ReLU(),
            Conv2d(256, 256, 3, padding=1),
            ReLU(),
            # [N, 256, 6, 6]
            MaxPool2d(3, stride=2),
        )
        self.avgpool = AdaptiveAvgPool2d((GRID, GRID))
        self.classifier = Sequential(
            Dropout(dropout),
            Linear(256 * GRID * GRID, HIDDEN),
            ReLU(),
            Dropout(dropout),
            Linear(HIDDEN, HIDDEN),
            ReLU(),
            Linear(HIDDEN, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        # [N, 256, 6, 6]
        x = self.avgpool(self.features(x))
        return self.classifier(x.reshape(x.shape[0], -1))
