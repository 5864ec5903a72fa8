"""GoogLeNet: torchvision.models.googlenet, with its auxiliary classifiers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicConv2d(nn.Module):  # type: ignore[misc, unused-ignore]
    """A convolution without bias, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def reduced_conv(inputs: int, reduced: int, outputs: int) -> nn.Sequential:
    """Return a convolution of 1x1 that reduces the channels, and one of 3x3."""
    return nn.Sequential(BasicConv2d(inputs, reduced, 1), BasicConv2d(reduced, outputs, 3, padding=1))


class Inception(nn.Module):  # type: ignore[misc, unused-ignore]
    """Four branches side by side, of c1, c3, c5 and `pool` channels; r3 and r5 are the channels between."""

    def __init__(self, inputs: int, c1: int, r3: int, c3: int, r5: int, c5: int, pool: int) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(inputs, c1, 1)
        self.branch2 = reduced_conv(inputs, r3, c3)
        self.branch3 = reduced_conv(inputs, r5, c5)
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), BasicConv2d(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class InceptionAux(nn.Module):  # type: ignore[misc, unused-ignore]
    """An auxiliary classifier."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv = BasicConv2d(inputs, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.conv(F.adaptive_avg_pool2d(x, (4, 4))), 1)
        return self.fc2(F.relu(self.fc1(x)))


# Arguments of each Inception block, by name.
INCEPTIONS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


class GoogLeNet(nn.Module):  # type: ignore[misc, unused-ignore]
    """foveal.nn.models.GoogLeNet

    aux: with auxiliary classifiers, whose logits follow the main ones in training. transform_input: images are
    normalised as torchvision's stored weights need them.
    """

    def __init__(self, channels: int, classes: int, aux: bool = True, transform_input: bool = False) -> None:
        super().__init__()
        self.aux, self.transform_input = aux, transform_input
        self.conv1 = BasicConv2d(channels, 64, 7, stride=2, padding=3)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3, padding=1)
        for name, widths in INCEPTIONS.items():
            setattr(self, f"inception{name}", Inception(*widths))
        if aux:
            self.aux1, self.aux2 = InceptionAux(512, classes), InceptionAux(528, classes)
        self.fc = nn.Linear(1024, classes)

    def transformed(self, x: Tensor) -> Tensor:
        """Return images that were normalised by ImageNet's means and deviations as if by 0.5 and 0.5."""
        scales, means = (0.229, 0.224, 0.225), (0.485, 0.456, 0.406)
        parts = [
            x[:, i : i + 1] * (s / 0.5) + (m - 0.5) / 0.5 for i, (s, m) in enumerate(zip(scales, means, strict=True))
        ]
        return torch.cat(parts, 1)

    def inceptions(self, x: Tensor, *names: str) -> Tensor:
        """Return the output of Inception blocks one after another."""
        for name in names:
            x = self.get_submodule(f"inception{name}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        x = self.transformed(x) if self.transform_input else x
        # The stem, to an eighth of the image's size.
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        # Three groups of Inception blocks, each at half the size of the one before.
        x = self.inceptions(x, "3a", "3b")
        x = self.inceptions(F.max_pool2d(x, 3, 2, ceil_mode=True), "4a")
        aux1 = self.aux1(x) if self.aux and self.training else None
        x = self.inceptions(x, "4b", "4c", "4d")
        aux2 = self.aux2(x) if self.aux and self.training else None
        x = F.max_pool2d(self.inceptions(x, "4e"), 2, 2, ceil_mode=True)
        x = self.inceptions(x, "5a", "5b")
        x = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return x if aux1 is None or aux2 is None else (x, aux2, aux1)
