"""The network of airbench94 (K. Jordan, 94 % on CIFAR-10 in 3.29 seconds on a single GPU, 2024, section 3).

What belongs to its training rather than to the network is left out. The first layer starts from random filters and is
trained, where the source computes filters that whiten the patches, and keeps them. Batch norm has the usual momentum
and eps, and its scale is trained. The filters start from He's distribution instead of partial identities.
"""

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.conv import Conv2d
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import he_start
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.ops.op import Tensor

# channels of the three groups, and the factor of the logits (section 3)
WIDTHS = (64, 256, 256)
SCALE = 1 / 9


class ConvGroup(Module):
    """conv 3x3, max-pool 2, batch norm, gelu, conv 3x3, batch norm, gelu: [N, C, H, W] -> [N, K, H/2, W/2]"""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.conv1 = Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = BatchNorm2d(outputs)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = BatchNorm2d(outputs)

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
        he_start(self)

    def forward(self, x: Tensor) -> Tensor:
        # shapes for images of 32x32: [N, 24, 31, 31]
        x = ops.gelu(self.whiten(x))
        # [N, 256, 3, 3]
        x = self.group3(self.group2(self.group1(x)))
        # [N, 256, 1, 1]
        x = ops.max_pool2d(x, kernel_size=3)
        return self.fc(x.reshape(x.shape[0], -1)) * SCALE
