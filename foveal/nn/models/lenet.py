"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998, fig. 2) in its common form.

In this form it has relu and max-pooling, and each filter of the second convolution reads all maps of the first.
"""

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.conv import Conv2d
from foveal.nn.linear import Linear
from foveal.nn.module import Module
from foveal.ops.op import Tensor


class LeNet5(Module):
    """Images [N, channels, H, W] of 12x12 and more (28x28 in the paper's data) -> logits [N, classes]."""

    heads = ("fc3",)

    def __init__(self, channels: int = 1, size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        if min(size) < 12:
            raise ShapeError(
                f"lenet5: images of {size[0]}x{size[1]} are too small, it needs 12x12; enlarge them, or use"
                " --model small"
            )
        # The second convolution has no padding, so that it takes 4 rows and columns away.
        rows, columns = (((n // 2) - 4) // 2 for n in size)
        self.conv1 = Conv2d(channels, 6, 5, padding=2)
        self.conv2 = Conv2d(6, 16, 5)
        self.fc1 = Linear(16 * rows * columns, 120)
        self.fc2 = Linear(120, 84)
        self.fc3 = Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        # shapes for images of 28x28: [N, 6, 14, 14], [N, 16, 5, 5], [N, 400]
        x = ops.max_pool2d(ops.relu(self.conv1(x)), kernel_size=2)
        x = ops.max_pool2d(ops.relu(self.conv2(x)), kernel_size=2)
        x = x.reshape(x.shape[0], -1)
        x = ops.relu(self.fc1(x))
        x = ops.relu(self.fc2(x))
        return self.fc3(x)
