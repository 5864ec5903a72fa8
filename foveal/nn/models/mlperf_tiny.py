"""The image models of MLPerf Tiny (Banbury et al. 2021, table 1), as its Keras reference builds them.

Convolutions have biases, batch norm has Keras' eps and momentum, and the padding is TensorFlow's "same": where a stride
leaves an odd number of zeros, the last row and column get one more than the first.
"""

from functools import partial

from foveal import ops
from foveal.nn.activation import ReLU
from foveal.nn.container import Identity, Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import Size, divisible, he_start, pooled_features, zero
from foveal.nn.models.mobilenet import SEPARABLE, STEM
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.ops.op import Tensor

# Keras has eps 1e-3, and 0.99 for what is 1 - momentum here.
norm = partial(BatchNorm2d, eps=1e-3, momentum=0.01)


def after(size: Size, stride: int) -> Size:
    """Rows and columns after a convolution with "same" padding."""
    return -(-size[0] // stride), -(-size[1] // stride)


def same(inputs: int, outputs: int, kernel: int, size: Size, stride: int = 1, groups: int = 1) -> Conv2d:
    """A convolution whose output has ceil(size / stride) rows and columns; its bias starts at 0."""
    # The windows of all outputs reach over (m - 1) stride + kernel rows or columns, of which n are there.
    rows, columns = (max(0, (m - 1) * stride + kernel - n) for n, m in zip(size, after(size, stride), strict=True))
    padding = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    conv = Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups)
    zero(conv.bias)
    return conv


class TinyBlock(Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))); the shortcut is a 1x1 convolution where the stride is not 1."""

    def __init__(self, inputs: int, outputs: int, stride: int, size: Size) -> None:
        self.conv1 = same(inputs, outputs, 3, size, stride)
        self.bn1 = norm(outputs)
        self.conv2 = same(outputs, outputs, 3, after(size, stride))
        self.bn2 = norm(outputs)
        self.downsample: Module = Identity()
        if stride != 1:
            self.downsample = same(inputs, outputs, 1, size, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = ops.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return ops.relu(y + self.downsample(x))


class ResNet8(Module):
    """Three blocks of 16, 32 and 64 channels; images [N, channels, H, W] (32x32 in the paper) -> logits [N, classes].

    size: the images' rows and columns, by which the padding is chosen.
    """

    heads = ("fc",)

    def __init__(self, channels: int = 3, size: Size = (32, 32), classes: int = 10) -> None:
        half = after(size, 2)
        self.conv1 = same(channels, 16, 3, size)
        self.bn1 = norm(16)
        self.layer1 = TinyBlock(16, 16, 1, size)
        self.layer2 = TinyBlock(16, 32, 2, size)
        self.layer3 = TinyBlock(32, 64, 2, half)
        self.fc = Linear(64, classes)
        he_start(self)
        zero(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        # shapes for images of 32x32: [N, 16, 32, 32], [N, 64, 8, 8]
        x = ops.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(pooled_features(x))


class TinyMobileNet(Module):
    """MobileNetV1 of a quarter of the width; images [N, channels, H, W] (96x96 in the paper) -> logits [N, classes].

    size: the images' rows and columns, by which the padding is chosen. width: the multiplier of all channels.
    """

    heads = ("classifier",)

    def __init__(self, channels: int = 3, size: Size = (96, 96), classes: int = 2, width: float = 0.25) -> None:
        inputs = divisible(STEM * width)
        layers: list[Module] = [same(channels, inputs, 3, size, 2), norm(inputs)]
        layers.append(ReLU())
        size = after(size, 2)
        for wide, stride in SEPARABLE:
            outputs = divisible(wide * width)
            layers += [same(inputs, inputs, 3, size, stride, inputs), norm(inputs), ReLU()]
            size = after(size, stride)
            layers += [same(inputs, outputs, 1, size), norm(outputs), ReLU()]
            inputs = outputs
        self.features = Sequential(*layers)
        self.classifier = Linear(inputs, classes)
        he_start(self)
        zero(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(pooled_features(self.features(x)))
