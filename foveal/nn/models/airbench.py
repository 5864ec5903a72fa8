"""The network of airbench94 (K. Jordan, 94 % on CIFAR-10 in 3.29 seconds on a single GPU, 2024, section 3).

Its first layer has the shape of one that whitens patches, which its training makes of the training images
(`nn.whitening`, section 3.2); without that it is an ordinary layer. Batch norms have no scale to be trained: it is 1.
"""

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.conv import Conv2d
from foveal.nn.init import generator, partial_dirac
from foveal.nn.linear import Linear
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.ops.op import Tensor

# channels of the three groups, and the factor of the logits (section 3)
WIDTHS = (64, 256, 256)
SCALE = 1 / 9
# of batch norms: 0.6 of the running statistics are kept
MOMENTUM, EPS = 0.4, 1e-12


def conv(inputs: int, outputs: int) -> Conv2d:
    """A convolution 3x3 whose first filters copy its inputs (section 3.3)."""
    layer = Conv2d(inputs, outputs, 3, padding=1, bias=False)
    layer.weight.data = partial_dirac(generator(), layer.weight.shape)
    return layer


def norm(channels: int) -> BatchNorm2d:
    """A batch norm whose bias alone is trained."""
    layer = BatchNorm2d(channels, eps=EPS, momentum=MOMENTUM)
    assert layer.weight is not None
    layer.weight.trainable = False
    return layer


class ConvGroup(Module):
    """conv 3x3, max-pool 2, batch norm, gelu, conv 3x3, batch norm, gelu: [N, C, H, W] -> [N, K, H/2, W/2]"""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.conv1 = conv(inputs, outputs)
        self.norm1 = norm(outputs)
        self.conv2 = conv(outputs, outputs)
        self.norm2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = ops.max_pool2d(self.conv1(x), kernel_size=2)
        x = ops.gelu(self.norm1(x))
        return ops.gelu(self.norm2(self.conv2(x)))


class Airbench94(Module):
    """Images [N, channels, H, W] of 25x25 and more (32x32 in the source) -> logits [N, classes]."""

    heads = ("fc",)

    def __init__(self, channels: int = 3, size: tuple[int, int] = (32, 32), classes: int = 10) -> None:
        if min(size) < 25:
            raise ShapeError(
                f"airbench94: images of {size[0]}x{size[1]} are too small, it needs 25x25; enlarge them, or use"
                " --model small"
            )
        # 2x2 filters, twice as many as there are values in a patch
        patch = channels * 2 * 2
        self.whiten = Conv2d(channels, 2 * patch, 2)
        self.group1 = ConvGroup(2 * patch, WIDTHS[0])
        self.group2 = ConvGroup(WIDTHS[0], WIDTHS[1])
        self.group3 = ConvGroup(WIDTHS[1], WIDTHS[2])
        # after the 2x2 convolution, three poolings by 2 and one by 3
        rows, columns = (((n - 1) // 8) // 3 for n in size)
        self.fc = Linear(WIDTHS[2] * rows * columns, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # shapes for images of 32x32: [N, 24, 31, 31]
        x = ops.gelu(self.whiten(x))
        # [N, 256, 3, 3]
        x = self.group3(self.group2(self.group1(x)))
        # [N, 256, 1, 1]
        x = ops.max_pool2d(x, kernel_size=3)
        return self.fc(x.reshape(x.shape[0], -1)) * SCALE
