"""airbench94: foveal.nn.models.airbench."""

from torch import Tensor, nn
from torch.nn import functional as F

from foveal.bench.torch_models.blocks import sequential
from foveal.nn.models.airbench import EPS, MOMENTUM, SCALE, WIDTHS
from foveal.nn.models.blocks import Size


def norm(channels: int) -> nn.Module:
    """foveal.nn.models.airbench.norm"""
    layer = nn.BatchNorm2d(channels, eps=EPS, momentum=MOMENTUM)
    layer.weight.requires_grad_(False)
    return layer


class ConvGroup(nn.Module):  # type: ignore[misc, unused-ignore]
    """foveal.nn.models.airbench.ConvGroup"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Scaled(nn.Module):  # type: ignore[misc, unused-ignore]
    """Multiplies the logits by a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x * SCALE


def airbench94(channels: int, size: Size, classes: int) -> nn.Module:
    """foveal.nn.models.Airbench94"""
    first, second, third = WIDTHS
    # Filters of 2x2, twice as many as such a window holds numbers.
    whitened = 8 * channels
    rows, columns = ((n - 1) // 8 // 3 for n in size)
    return sequential(
        whiten=nn.Conv2d(channels, whitened, 2),
        gelu=nn.GELU(),
        group1=ConvGroup(whitened, first),
        group2=ConvGroup(first, second),
        group3=ConvGroup(second, third),
        pool=nn.MaxPool2d(3),
        flatten=nn.Flatten(),
        fc=nn.Linear(third * rows * columns, classes, bias=False),
        scale=Scaled(),
    )
