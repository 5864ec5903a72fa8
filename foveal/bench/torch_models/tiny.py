"""MLPerf Tiny's networks, which were published in Keras: "same" padding, and Keras's batch norm."""

from torch import Tensor, nn
from torch.nn import functional as F

from foveal.bench.torch_models.blocks import Head, pooled_classifier, sequential
from foveal.bench.torch_models.mobilenet import V1


class SameConv2d(nn.Conv2d):  # type: ignore[misc, unused-ignore]
    """A convolution with TensorFlow's "same" padding: ceil(H / stride) outputs, odd padding at the end."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        # F.pad counts axes from the last one.
        for n, k, u in reversed(list(zip(x.shape[2:], self.kernel_size, self.stride, strict=True))):
            total = max((-(-n // u) - 1) * u + k - n, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def keras_norm(width: int) -> nn.BatchNorm2d:
    """Return batch norm with Keras's defaults."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class TinyBlock(nn.Module):  # type: ignore[misc, unused-ignore]
    """A residual block whose shortcut has no norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = SameConv2d(inputs, outputs, 3, stride), keras_norm(outputs)
        self.conv2, self.bn2 = SameConv2d(outputs, outputs, 3), keras_norm(outputs)
        self.downsample = SameConv2d(inputs, outputs, 1, stride) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


def resnet8_tiny(channels: int, classes: int) -> nn.Module:
    """foveal.nn.models.tiny.ResNet8"""
    parts: dict[str, nn.Module] = {"conv1": SameConv2d(channels, 16, 3), "bn1": keras_norm(16), "relu": nn.ReLU()}
    for i, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
        parts[f"layer{i}"] = TinyBlock(inputs, outputs, 1 if i == 1 else 2)
    return sequential(**parts, **pooled_classifier(64, classes))


def mobilenet_v1_tiny(channels: int, classes: int) -> nn.Module:
    """foveal.nn.models.tiny.TinyMobileNet: MobileNetV1 with a quarter of the channels"""
    layers: list[nn.Module] = [SameConv2d(channels, 8, 3, 2), keras_norm(8), nn.ReLU()]
    inputs = 8
    for full_width, stride in V1:
        outputs = full_width // 4
        layers += [SameConv2d(inputs, inputs, 3, stride, groups=inputs), keras_norm(inputs), nn.ReLU()]
        layers += [SameConv2d(inputs, outputs, 1), keras_norm(outputs), nn.ReLU()]
        inputs = outputs
    return Head(nn.Sequential(*layers), nn.Linear(inputs, classes))
