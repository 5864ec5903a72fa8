"""GoogLeNet (Szegedy et al. 2015, table 1) in torchvision's form, with its names.

It has batch norm instead of biases and local response norm, and 3x3 filters where the paper has 5x5: its published
weights were trained with these.
"""

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.dropout import Dropout
from foveal.nn.init import generator
from foveal.nn.linear import Linear
from foveal.nn.models.blocks import Size, check_size, pooled_features
from foveal.nn.module import Module, Output, Parameter
from foveal.nn.norm import BatchNorm2d
from foveal.nn.pool import AdaptiveAvgPool2d, MaxPool2d
from foveal.ops.op import Tensor

# of batch norm
EPS = 1e-3
# the smallest image of which the last pooling leaves a pixel
SMALLEST = 15
# rows and columns of what an auxiliary classifier sees, and its width (section 5)
GRID, HIDDEN = 4, 1024
# of ImageNet's colours, by which images are normalised
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BasicConv2d(Module):
    """relu(bn(conv(x))), without bias; size: of the kernel"""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, padding: int = 0) -> None:
        self.conv = Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False)
        self.bn = BatchNorm2d(outputs, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(self.bn(self.conv(x)))


class Inception(Module):
    """Four branches side by side (fig. 2b): 1x1; 1x1 then 3x3; again 1x1 then 3x3; max-pooling then 1x1.

    one, pool: the channels of the first and of the last branch. three, five: of the second and third (3x3 and 5x5 in
    the paper), each (after the 1x1 convolution, after the 3x3 one). x [N, inputs, H, W] -> [N, the sum of the branches,
    H, W]
    """

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> None:
        self.branch1 = BasicConv2d(inputs, one, 1)
        self.branch2 = Sequential(BasicConv2d(inputs, three[0], 1), BasicConv2d(*three, 3, padding=1))
        self.branch3 = Sequential(BasicConv2d(inputs, five[0], 1), BasicConv2d(*five, 3, padding=1))
        self.branch4 = Sequential(MaxPool2d(3, stride=1, padding=1, ceil_mode=True), BasicConv2d(inputs, pool, 1))
        self.outputs = one + three[1] + five[1] + pool

    def forward(self, x: Tensor) -> Tensor:
        return ops.concatenate(self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x))


class Auxiliary(Module):
    """A classifier on features in the middle of the network: x [N, C, H, W] -> logits [N, classes]"""

    def __init__(self, inputs: int, classes: int, dropout: float) -> None:
        self.pool = AdaptiveAvgPool2d((GRID, GRID))
        self.conv = BasicConv2d(inputs, 128, 1)
        self.fc1 = Linear(128 * GRID * GRID, HIDDEN)
        self.dropout = Dropout(dropout)
        self.fc2 = Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        # [N, 128, 4, 4]
        x = self.conv(self.pool(x))
        x = ops.relu(self.fc1(x.reshape(x.shape[0], -1)))
        return self.fc2(self.dropout(x))


class GoogLeNet(Module):
    """Images [N, channels, H, W] of 15x15 and more (224x224 in the paper) -> logits [N, classes].

    aux_logits: in training mode the model returns (logits, aux2, aux1) with the logits of auxiliary classifiers after
    blocks 4d and 4a; the loss is then nn.AuxiliaryLoss(nn.CrossEntropyLoss()). transform_input: True converts images
    that were normalised by ImageNet's mean and deviation to the range from -1 to 1, for weights that torchvision took
    from TensorFlow. dropout, dropout_aux: the probabilities before the classifier and in the auxiliary ones.
    """

    heads = ("fc", "aux1", "aux2")
    # a file may hold them where the model does not
    optional = ("aux1", "aux2")

    def __init__(
        self,
        channels: int = 3,
        size: Size = (224, 224),
        classes: int = 1000,
        aux_logits: bool = True,
        transform_input: bool = False,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
    ) -> None:
        check_size("googlenet", size, SMALLEST)
        if transform_input and channels != len(MEAN):
            raise ShapeError(f"googlenet: transform_input is for images of 3 channels, not {channels}; leave it off")
        self.transform_input = transform_input
        # table 1, row by row
        self.conv1 = BasicConv2d(channels, 64, 7, stride=2, padding=3)
        self.maxpool1 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3, padding=1)
        self.maxpool2 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.aux1 = Auxiliary(512, classes, dropout_aux) if aux_logits else None
        self.aux2 = Auxiliary(528, classes, dropout_aux) if aux_logits else None
        self.dropout = Dropout(dropout)
        self.fc = Linear(self.inception5b.outputs, classes)
        for _, module in self.named_modules():
            if isinstance(module, Conv2d | Linear):
                truncated(module.weight)

    def forward(self, x: Tensor) -> Output:
        if self.transform_input:
            x = from_minus_one(x)
        # shapes for images of 224x224: [N, 64, 56, 56], [N, 192, 28, 28], [N, 480, 14, 14]
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        # [N, 512, 14, 14] and [N, 528, 14, 14], which the auxiliary classifiers see
        early = x = self.inception4a(x)
        late = x = self.inception4d(self.inception4c(self.inception4b(x)))
        # [N, 832, 7, 7], [N, 1024, 7, 7]
        x = self.maxpool4(self.inception4e(x))
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(self.dropout(pooled_features(x)))
        if self.aux1 is None or self.aux2 is None or not self.training:
            return logits
        return logits, self.aux2(late), self.aux1(early)


def from_minus_one(x: Tensor) -> Tensor:
    """Images (p - MEAN) / STD of pixels p in 0 ... 1 as 2 p - 1, channel by channel."""
    channels = [ops.narrow(x, axis=1, start=i, length=1) for i in range(len(MEAN))]
    return ops.concatenate(*(c * (2 * s) + (2 * m - 1) for c, m, s in zip(channels, MEAN, STD, strict=True)))


def truncated(parameter: Parameter, std: float = 0.01, limit: float = 2.0) -> None:
    """Draw a parameter again from a normal distribution, without values of more than `limit` standard deviations."""
    values = generator().standard_normal(parameter.size, dtype=np.float32)
    while (beyond := np.flatnonzero(abs(values) > limit)).size:
        values[beyond] = generator().standard_normal(beyond.size, dtype=np.float32)
    parameter.data = values.reshape(parameter.shape) * np.float32(std)
