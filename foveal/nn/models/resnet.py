"""Residual networks (He, Zhang, Ren, Sun 2016): those of table 1, with torchvision's names, and those of section 4.2
for small images.
"""

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.container import Identity, Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import fan_out_start, he_start, pooled_features, zero
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.nn.pool import MaxPool2d
from foveal.ops.op import Tensor


def shortcut(inputs: int, outputs: int, stride: int) -> Module:
    """The identity; where the shape changes a strided 1x1 convolution and batch norm."""
    if stride == 1 and inputs == outputs:
        return Identity()
    return Sequential(Conv2d(inputs, outputs, 1, stride=stride, bias=False), BatchNorm2d(outputs))


class BasicBlock(Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))), both convolutions 3x3

    x [N, inputs, H, W] -> [N, outputs, H / stride, W / stride], rounded up.
    """

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        self.conv1 = Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(outputs)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = ops.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return ops.relu(y + self.downsample(x))


class Bottleneck(Module):
    """relu(shortcut(x) + y), y by 1x1, 3x3 and 1x1 convolutions; x [N, inputs, H, W] -> [N, 4 width, P, Q]

    The 3x3 convolution has the stride, as in torchvision ("v1.5"); in the paper the first one has it.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        outputs = self.expansion * width
        self.conv1 = Conv2d(inputs, width, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = Conv2d(width, outputs, 1, bias=False)
        self.bn3 = BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = ops.relu(self.bn1(self.conv1(x)))
        y = ops.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return ops.relu(y + self.downsample(x))


Block = type[BasicBlock] | type[Bottleneck]
# table 1: the kind of block, and the number of blocks of each stage
DEPTHS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class CifarResNet(Module):
    """6n + 2 layers in three stages of `width`, 2 `width` and 4 `width` channels (section 4.2)

    Images [N, channels, H, W] (32x32 in the paper) -> logits [N, classes]. depth: 6n + 2, else ShapeError.
    """

    heads = ("fc",)

    def __init__(self, depth: int = 20, channels: int = 3, classes: int = 10, width: int = 16) -> None:
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ShapeError(f"CifarResNet: depth is {depth}, it has to be 8, 14, 20, ... (6n + 2)")
        self.conv1 = Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.layer1 = stage(BasicBlock, width, width, blocks, 1)
        self.layer2 = stage(BasicBlock, width, 2 * width, blocks, 2)
        self.layer3 = stage(BasicBlock, 2 * width, 4 * width, blocks, 2)
        self.fc = Linear(4 * width, classes)
        he_start(self)
        zero(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        # shapes for images of 32x32: [N, 16, 32, 32] twice, [N, 32, 16, 16], [N, 64, 8, 8]
        x = ops.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        return self.fc(pooled_features(x))


class ResNet(Module):
    """Four stages of blocks (table 1); images [N, C, H, W] of any size (224x224 in the paper) -> logits [N, classes].

    depth: 18, 34 or 50. small_images: a 3x3 convolution of stride 1 in place of the 7x7 one of stride 2 and the
    max-pooling after it, as is usual for images of 32x32. The filters of ResNet-18 start with a variance by the inputs
    they sum over, those of the deeper ones by their outputs, as torchvision's.
    """

    heads = ("fc",)

    def __init__(self, depth: int = 18, channels: int = 3, classes: int = 1000, small_images: bool = False) -> None:
        block, blocks = DEPTHS[depth]
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = Conv2d(channels, 64, size, stride=stride, padding=size // 2, bias=False)
        self.bn1 = BatchNorm2d(64)
        self.maxpool = Identity() if small_images else MaxPool2d(3, stride=2, padding=1)
        inner = block.expansion
        self.layer1 = stage(block, 64, 64, blocks[0], 1)
        self.layer2 = stage(block, 64 * inner, 128, blocks[1], 2)
        self.layer3 = stage(block, 128 * inner, 256, blocks[2], 2)
        self.layer4 = stage(block, 256 * inner, 512, blocks[3], 2)
        self.fc = Linear(512 * inner, classes)
        (he_start if depth == 18 else fan_out_start)(self)

    def forward(self, x: Tensor) -> Tensor:
        # shapes for 224x224, and for small_images of 32x32; depths 18 and 34 (4 times the channels in 50)
        # [N, 64, 112, 112], [N, 64, 32, 32]
        x = ops.relu(self.bn1(self.conv1(x)))
        # [N, 64, 56, 56], [N, 64, 32, 32]
        x = self.maxpool(x)
        # [N, 128, 28, 28], [N, 128, 16, 16]
        x = self.layer2(self.layer1(x))
        # [N, 512, 7, 7], [N, 512, 4, 4]
        x = self.layer4(self.layer3(x))
        return self.fc(pooled_features(x))


def stage(block: Block, inputs: int, width: int, blocks: int, stride: int) -> Sequential:
    """`blocks` blocks one after another, of which the first has the stride and changes the number of channels."""
    first, outputs = block(inputs, width, stride), block.expansion * width
    return Sequential(first, *(block(outputs, width, 1) for _ in range(blocks - 1)))
