"""VGG (Simonyan and Zisserman 2015, table 1, columns A, B, D and E), with torchvision's names, and one for CIFAR."""

from foveal import ops
from foveal.nn.activation import ReLU
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.dropout import Dropout
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import Size, check_size, fan_out_start, he_start, linear_start
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.nn.pool import AdaptiveAvgPool2d, MaxPool2d
from foveal.ops.op import Tensor

# channels of each stage
WIDTHS = (64, 128, 256, 512, 512)
# by the number of layers with weights, of which three are linear: the number of convolutions of each stage
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
# the channels of each convolution, stage by stage
Stages = tuple[tuple[int, ...], ...]
STAGES: Stages = tuple((w,) * n for w, n in zip(WIDTHS, DEPTHS[16], strict=True))
# rows and columns of what the classifier sees, and the width of its layers
GRID, HIDDEN = 7, 4096
# Each stage halves the image.
SMALLEST = 2 ** len(WIDTHS)


def stages(channels: int, widths: Stages, norm: bool) -> Sequential:
    """3x3 convolutions, each followed by relu (with batch norm before it), and a max-pooling by 2 after each stage."""
    layers: list[Module] = []
    for stage in widths:
        for width in stage:
            layers.append(Conv2d(channels, width, 3, padding=1))
            layers += [BatchNorm2d(width), ReLU()] if norm else [ReLU()]
            channels = width
        layers.append(MaxPool2d(2))
    return Sequential(*layers)


class VGG(Module):
    """Images [N, channels, H, W] of 32x32 and more (224x224 in the paper) -> logits [N, classes].

    The features of images of other sizes than 224x224 are averaged to 7x7 positions, or repeated where there are fewer.
    depth: 11, 13, 16 or 19. norm: True has batch norm after each convolution.
    """

    heads = ("classifier.6",)

    def __init__(
        self,
        depth: int = 16,
        channels: int = 3,
        size: Size = (224, 224),
        classes: int = 1000,
        norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        check_size(f"vgg{depth}", size, SMALLEST)
        # the channels of each convolution, stage by stage
        widths = tuple((w,) * n for w, n in zip(WIDTHS, DEPTHS[depth], strict=True))
        self.features = stages(channels, widths, norm)
        self.avgpool = AdaptiveAvgPool2d((GRID, GRID))
        self.classifier = Sequential(
            Linear(WIDTHS[-1] * GRID * GRID, HIDDEN),
            ReLU(),
            Dropout(dropout),
            Linear(HIDDEN, HIDDEN),
            ReLU(),
            Dropout(dropout),
            Linear(HIDDEN, classes),
        )
        fan_out_start(self)
        linear_start(self)

    def forward(self, x: Tensor) -> Tensor:
        # [N, 512, 7, 7]
        x = self.avgpool(self.features(x))
        return self.classifier(x.reshape(x.shape[0], -1))


class CifarVGG(Module):
    """VGG-16 with batch norm for small images, as is usual for CIFAR: one linear layer in place of the three of 4096.

    Images [N, channels, H, W] of 32x32 and more -> logits [N, classes].
    """

    heads = ("classifier",)

    def __init__(self, channels: int = 3, size: Size = (32, 32), classes: int = 10, widths: Stages = STAGES) -> None:
        check_size("vgg16-cifar", size, 2 ** len(widths))
        self.features = stages(channels, widths, norm=True)
        self.classifier = Linear(widths[-1][-1], classes)
        he_start(self)

    def forward(self, x: Tensor) -> Tensor:
        # [N, 512, 1, 1] of 32x32
        x = self.features(x)
        if x.shape[2:] != (1, 1):
            x = ops.global_avg_pool2d(x)
        return self.classifier(x.reshape(x.shape[0], -1))
