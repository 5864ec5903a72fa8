"""A small convolutional network with batch norm, which `foveal train` chooses for images below 32x32."""

from foveal import ops
from foveal.nn.conv import Conv2d
from foveal.nn.dropout import Dropout
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import he_start
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm2d
from foveal.ops.op import Tensor


class SmallNet(Module):
    """Two stages of two 3x3 convolutions; images [N, channels, H, W] of 4x4 and more -> logits [N, classes].

    width: the channels of the first stage; the second has twice as many. p: the probability of dropout.
    """

    heads = ("fc",)

    def __init__(self, channels: int, classes: int, width: int = 32, p: float = 0.1) -> None:
        self.conv1 = Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn3 = BatchNorm2d(2 * width)
        self.conv4 = Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.bn4 = BatchNorm2d(2 * width)
        self.dropout = Dropout(p)
        self.fc = Linear(2 * width, classes)
        he_start(self)

    def forward(self, x: Tensor) -> Tensor:
        x = ops.relu(self.bn1(self.conv1(x)))
        x = ops.max_pool2d(ops.relu(self.bn2(self.conv2(x))), kernel_size=2)
        x = ops.relu(self.bn3(self.conv3(x)))
        x = ops.max_pool2d(ops.relu(self.bn4(self.conv4(x))), kernel_size=2)
        x = ops.global_avg_pool2d(x)
        return self.fc(self.dropout(x.reshape(x.shape[0], -1)))
