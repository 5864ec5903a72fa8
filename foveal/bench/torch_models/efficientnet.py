"""EfficientNet-B0: torchvision.models.efficientnet."""

from torch import nn

from foveal.bench.torch_models.blocks import Head, Shortcut, SqueezeExcitation, conv_norm

# Expansion, kernel, stride, inputs, outputs and repeats of each stage.
B0 = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


def efficientnet_b0(channels: int, classes: int) -> nn.Module:
    """foveal.nn.models.EfficientNet with dropout 0"""
    layers: list[nn.Module] = [conv_norm(channels, 32, 3, 2, act=nn.SiLU)]
    for expand, kernel, first_stride, inputs, outputs, repeats in B0:
        blocks = []
        for i in range(repeats):
            # Only the first block of a stage changes the size and the channels of its input.
            before, stride = (inputs, first_stride) if i == 0 else (outputs, 1)
            inner = before * expand
            # Expand, filter each channel, weigh channels, project.
            block: list[nn.Module] = [conv_norm(before, inner, 1, act=nn.SiLU)] if expand != 1 else []
            block.append(conv_norm(inner, inner, kernel, stride, inner, act=nn.SiLU))
            block.append(SqueezeExcitation(inner, max(1, before // 4), nn.SiLU, nn.Sigmoid))
            block.append(conv_norm(inner, outputs, 1, act=None))
            blocks.append(Shortcut(block, stride == 1 and before == outputs))
        layers.append(nn.Sequential(*blocks))
    outputs = B0[-1][4]
    layers.append(conv_norm(outputs, 4 * outputs, 1, act=nn.SiLU))
    classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(4 * outputs, classes))
    return Head(nn.Sequential(*layers), classifier)
