"""Models in PyTorch, written from torchvision's definitions (its names, hyper-parameters and order), to compare ours
with.

Those that are timed are in foveal.bench.torch_models; these are the others. Imported only where torch is installed.
"""

import collections

import torch
from torch import nn
from torch.nn import functional as F

VGG_STAGES = {11: "1 1 2 2 2", 13: "2 2 2 2 2", 16: "2 2 3 3 3", 19: "2 2 4 4 4"}


def sequential(**parts):
    return nn.Sequential(collections.OrderedDict(parts))


class Head(nn.Module):
    """features, pooling, flattening, classifier"""

    def __init__(self, features, classifier, pool=1, end=lambda x: x):
        super().__init__()
        self.features, self.classifier, self.pool, self.end = features, classifier, pool, end

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.end(self.features(x)), self.pool)
        return self.classifier(torch.flatten(x, 1))


def alexnet(channels=3, classes=1000, dropout=0.0):
    conv, relu, pool = nn.Conv2d, nn.ReLU, nn.MaxPool2d
    features = nn.Sequential(
        conv(channels, 64, kernel_size=11, stride=4, padding=2),
        relu(),
        pool(3, 2),
        conv(64, 192, kernel_size=5, padding=2),
        relu(),
        pool(3, 2),
        conv(192, 384, kernel_size=3, padding=1),
        relu(),
        conv(384, 256, kernel_size=3, padding=1),
        relu(),
        conv(256, 256, kernel_size=3, padding=1),
        relu(),
        pool(3, 2),
    )
    classifier = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(256 * 6 * 6, 4096),
        relu(),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        relu(),
        nn.Linear(4096, classes),
    )
    return Head(features, classifier, pool=6)


def vgg(depth, norm, channels=3, classes=1000, dropout=0.0):
    layers, width = [], 64
    for repeats in map(int, VGG_STAGES[depth].split()):
        for _ in range(repeats):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] * norm + [nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
        width = min(512, 2 * width)
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4096, classes),
    )
    return Head(nn.Sequential(*layers), classifier, pool=7)


class Residual(nn.Module):
    """torchvision's BasicBlock and Bottleneck"""

    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        sizes = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        outputs = 4 * width if bottleneck else width
        widths = [inputs, *[width] * (len(sizes) - 1), outputs]
        self.count = len(sizes)
        for i, (size, step) in enumerate(sizes):
            conv = nn.Conv2d(widths[i], widths[i + 1], size, step, size // 2, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def residual_stage(inputs, width, blocks, stride, bottleneck):
    outputs = 4 * width if bottleneck else width
    rest = [Residual(outputs, width, 1, bottleneck) for _ in range(blocks - 1)]
    return nn.Sequential(Residual(inputs, width, stride, bottleneck), *rest)


def flat_head(inputs, classes):
    return {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(inputs, classes)}


def resnet(blocks, bottleneck, channels=3, classes=1000, small=False):
    conv = nn.Conv2d(channels, 64, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
    parts = {"conv1": conv, "bn1": nn.BatchNorm2d(64), "relu": nn.ReLU()}
    parts |= {} if small else {"maxpool": nn.MaxPool2d(3, 2, 1)}
    inputs = 64
    for i, count in enumerate(blocks):
        width = 64 * 2**i
        parts[f"layer{i + 1}"] = residual_stage(inputs, width, count, 1 + (i > 0), bottleneck)
        inputs = 4 * width if bottleneck else width
    return sequential(**parts, **flat_head(inputs, classes))


def cifar_resnet(depth, channels=3, classes=1000):
    conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
    parts, n = {"conv1": conv, "bn1": nn.BatchNorm2d(16), "relu": nn.ReLU()}, (depth - 2) // 6
    for i, (inputs, width) in enumerate(((16, 16), (16, 32), (32, 64))):
        parts[f"layer{i + 1}"] = residual_stage(inputs, width, n, 1 + (i > 0), bottleneck=False)
    return sequential(**parts, **flat_head(64, classes))


class BasicConv2d(nn.Module):
    def __init__(self, inputs, outputs, **how):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **how)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, inputs, c1, r3, c3, r5, c5, pool):
        super().__init__()
        self.branch1 = BasicConv2d(inputs, c1, kernel_size=1)
        self.branch2 = self.pair(inputs, r3, c3)
        self.branch3 = self.pair(inputs, r5, c5)
        project = BasicConv2d(inputs, pool, kernel_size=1)
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), project)

    @staticmethod
    def pair(inputs, reduced, outputs):
        first = BasicConv2d(inputs, reduced, kernel_size=1)
        return nn.Sequential(first, BasicConv2d(reduced, outputs, kernel_size=3, padding=1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class InceptionAux(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.conv = BasicConv2d(inputs, 128, kernel_size=1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x):
        x = torch.flatten(self.conv(F.adaptive_avg_pool2d(x, (4, 4))), 1)
        return self.fc2(F.relu(self.fc1(x)))


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


class GoogLeNet(nn.Module):
    def __init__(self, channels=3, classes=1000, aux=True, transform_input=False):
        super().__init__()
        self.aux, self.transform_input = aux, transform_input
        self.conv1 = BasicConv2d(channels, 64, kernel_size=7, stride=2, padding=3)
        self.conv2 = BasicConv2d(64, 64, kernel_size=1)
        self.conv3 = BasicConv2d(64, 192, kernel_size=3, padding=1)
        for name, widths in INCEPTIONS.items():
            setattr(self, f"inception{name}", Inception(*widths))
        if aux:
            self.aux1, self.aux2 = InceptionAux(512, classes), InceptionAux(528, classes)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x):
        if self.transform_input:
            scales, means = (0.229, 0.224, 0.225), (0.485, 0.456, 0.406)
            parts = [
                x[:, i : i + 1] * (s / 0.5) + (m - 0.5) / 0.5
                for i, (s, m) in enumerate(zip(scales, means, strict=True))
            ]
            x = torch.cat(parts, 1)
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.inception3b(self.inception3a(x))
        x = self.inception4a(F.max_pool2d(x, 3, 2, ceil_mode=True))
        aux1 = self.aux1(x) if self.aux and self.training else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.aux and self.training else None
        x = F.max_pool2d(self.inception4e(x), 2, 2, ceil_mode=True)
        x = self.inception5b(self.inception5a(x))
        x = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return (x, aux2, aux1) if self.aux and self.training else x


def conv_norm(inputs, outputs, size, stride=1, groups=1, act=nn.ReLU, **norm):
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, **norm), *([act()] if act else []))


class SqueezeExcitation(nn.Module):
    def __init__(self, inputs, squeezed, activation, scale):
        super().__init__()
        self.fc1 = nn.Conv2d(inputs, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, inputs, 1)
        self.activation, self.scale = activation(), scale()

    def forward(self, x):
        y = self.activation(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return self.scale(self.fc2(y)) * x


class Shortcut(nn.Module):
    """A block, and its input where shapes agree"""

    def __init__(self, layers, added):
        super().__init__()
        self.block, self.added = nn.Sequential(*layers), added

    def forward(self, x):
        return x + self.block(x) if self.added else self.block(x)


def make_divisible(v, divisor=8):
    new = max(divisor, int(v + divisor / 2) // divisor * divisor)
    return new + divisor if new < 0.9 * v else new


V3_LARGE = (  # input, kernel, expanded, output, squeeze and excitation, hard swish, stride
    "16 3 16 16 0 0 1",
    "16 3 64 24 0 0 2",
    "24 3 72 24 0 0 1",
    "24 5 72 40 1 0 2",
    "40 5 120 40 1 0 1",
    "40 5 120 40 1 0 1",
    "40 3 240 80 0 1 2",
    "80 3 200 80 0 1 1",
    "80 3 184 80 0 1 1",
    "80 3 184 80 0 1 1",
    "80 3 480 112 1 1 1",
    "112 3 672 112 1 1 1",
    "112 5 672 160 1 1 2",
    "160 5 960 160 1 1 1",
    "160 5 960 160 1 1 1",
)
V3_SMALL = (
    "16 3 16 16 1 0 2",
    "16 3 72 24 0 0 2",
    "24 3 88 24 0 0 1",
    "24 5 96 40 1 1 2",
    "40 5 240 40 1 1 1",
    "40 5 240 40 1 1 1",
    "40 5 120 48 1 1 1",
    "48 5 144 48 1 1 1",
    "48 5 288 96 1 1 2",
    "96 5 576 96 1 1 1",
    "96 5 576 96 1 1 1",
)


def mobilenet_v3(rows, last, channels=3, classes=1000):
    norm = {"eps": 0.001, "momentum": 0.01}
    layers = [conv_norm(channels, 16, 3, 2, act=nn.Hardswish, **norm)]
    for row in rows:
        inputs, kernel, inner, outputs, se, hs, stride = map(int, row.split())
        act = nn.Hardswish if hs else nn.ReLU
        block = [conv_norm(inputs, inner, 1, act=act, **norm)] if inner != inputs else []
        block.append(conv_norm(inner, inner, kernel, stride, inner, act=act, **norm))
        if se:
            squeezed = make_divisible(inner // 4)
            block.append(SqueezeExcitation(inner, squeezed, nn.ReLU, nn.Hardsigmoid))
        block.append(conv_norm(inner, outputs, 1, act=None, **norm))
        layers.append(Shortcut(block, stride == 1 and inputs == outputs))
    layers.append(conv_norm(outputs, 6 * outputs, 1, act=nn.Hardswish, **norm))
    classifier = nn.Sequential(nn.Linear(6 * outputs, last), nn.Hardswish(), nn.Dropout(0.0), nn.Linear(last, classes))
    return Head(nn.Sequential(*layers), classifier)


B0 = (  # expansion, kernel, stride, input, output, repeats
    "1 3 1 32 16 1",
    "6 3 2 16 24 2",
    "6 5 2 24 40 2",
    "6 3 2 40 80 3",
    "6 5 1 80 112 3",
    "6 5 2 112 192 4",
    "6 3 1 192 320 1",
)


def efficientnet(stages=B0, channels=3, classes=1000):
    layers = [conv_norm(channels, 32, 3, 2, act=nn.SiLU)]
    for stage in stages:
        expand, kernel, stride, inputs, outputs, repeats = map(int, stage.split())
        blocks = []
        for i in range(repeats):
            inner, step = inputs * expand, stride if i == 0 else 1
            block = [conv_norm(inputs, inner, 1, act=nn.SiLU)] if expand != 1 else []
            block.append(conv_norm(inner, inner, kernel, step, inner, act=nn.SiLU))
            block.append(SqueezeExcitation(inner, max(1, inputs // 4), nn.SiLU, nn.Sigmoid))
            block.append(conv_norm(inner, outputs, 1, act=None))
            blocks.append(Shortcut(block, step == 1 and inputs == outputs))
            inputs = outputs
        layers.append(nn.Sequential(*blocks))
    layers.append(conv_norm(outputs, 4 * outputs, 1, act=nn.SiLU))
    classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(4 * outputs, classes))
    return Head(nn.Sequential(*layers), classifier)


V1 = "64/1 128/2 128/1 256/2 256/1 512/2 512/1 512/1 512/1 512/1 512/1 1024/2 1024/1"


def mobilenet_v1(channels=3, classes=1000):
    layers, inputs = [conv_norm(channels, 32, 3, 2)], 32
    for row in V1.split():
        outputs, stride = map(int, row.split("/"))
        depthwise = conv_norm(inputs, inputs, 3, stride, inputs)
        layers.append(nn.Sequential(depthwise, conv_norm(inputs, outputs, 1)))
        inputs = outputs
    return Head(nn.Sequential(*layers), nn.Linear(inputs, classes))


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm1, self.conv1 = (nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False))
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        y = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(y)))


class DenseBlock(nn.ModuleDict):
    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


def densenet(blocks, growth, width, channels=3, classes=1000, small=False):
    if small:
        parts = {"conv0": nn.Conv2d(channels, width, 3, 1, 1, bias=False)}
    else:
        parts = {"conv0": nn.Conv2d(channels, width, 7, 2, 3, bias=False), "norm0": nn.BatchNorm2d(width)}
        parts |= {"relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, 2, 1)}
    for i, count in enumerate(blocks):
        layers = {f"denselayer{j + 1}": DenseLayer(width + j * growth, growth) for j in range(count)}
        parts[f"denseblock{i + 1}"] = DenseBlock(layers)
        width += count * growth
        if i + 1 < len(blocks):
            conv = nn.Conv2d(width, width // 2, 1, bias=False)
            parts[f"transition{i + 1}"] = sequential(
                norm=nn.BatchNorm2d(width), relu=nn.ReLU(), conv=conv, pool=nn.AvgPool2d(2, 2)
            )
            width //= 2
    features = sequential(**parts, norm5=nn.BatchNorm2d(width))
    return Head(features, nn.Linear(width, classes), end=F.relu)


class Same(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding"""

    def forward(self, x):
        pads = []
        for n, k, u in reversed(list(zip(x.shape[2:], self.kernel_size, self.stride, strict=True))):
            total = max((-(-n // u) - 1) * u + k - n, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def keras_norm(width):
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class TinyBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = Same(inputs, outputs, 3, stride), keras_norm(outputs)
        self.conv2, self.bn2 = Same(outputs, outputs, 3), keras_norm(outputs)
        self.downsample = Same(inputs, outputs, 1, stride) if stride != 1 else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


def resnet8_tiny(channels=3, classes=1000):
    parts = {"conv1": Same(channels, 16, 3), "bn1": keras_norm(16), "relu": nn.ReLU()}
    for i, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64))):
        parts[f"layer{i + 1}"] = TinyBlock(inputs, outputs, 1 + (i > 0))
    return sequential(**parts, **flat_head(64, classes))


def mobilenet_v1_tiny(channels=3, classes=1000):
    layers, inputs = [Same(channels, 8, 3, 2), keras_norm(8), nn.ReLU()], 8
    for row in V1.split():
        outputs, stride = map(int, row.split("/"))
        outputs //= 4
        layers += [Same(inputs, inputs, 3, stride, groups=inputs), keras_norm(inputs), nn.ReLU()]
        layers += [Same(inputs, outputs, 1), keras_norm(outputs), nn.ReLU()]
        inputs = outputs
    return Head(nn.Sequential(*layers), nn.Linear(inputs, classes))


MODELS = {
    "alexnet": alexnet,
    **{
        f"vgg{depth}{'_bn' * norm}": lambda depth=depth, norm=norm, **how: vgg(depth, norm, **how)
        for depth in VGG_STAGES
        for norm in (0, 1)
    },
    "resnet18": lambda **how: resnet((2, 2, 2, 2), False, **how),
    "resnet34": lambda **how: resnet((3, 4, 6, 3), False, **how),
    "resnet50": lambda **how: resnet((3, 4, 6, 3), True, **how),
    "resnet18-cifar": lambda **how: resnet((2, 2, 2, 2), False, small=True, **how),
    **{f"resnet{d}": lambda d=d, **how: cifar_resnet(d, **how) for d in (20, 32, 44, 56)},
    "googlenet": lambda **how: GoogLeNet(aux=False, **how),
    "googlenet_aux": GoogLeNet,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v3_large": lambda **how: mobilenet_v3(V3_LARGE, 1280, **how),
    "mobilenet_v3_small": lambda **how: mobilenet_v3(V3_SMALL, 1024, **how),
    "densenet121": lambda **how: densenet((6, 12, 24, 16), 32, 64, **how),
    "densenet100-cifar": lambda **how: densenet((16, 16, 16), 12, 24, small=True, **how),
    "efficientnet_b0": efficientnet,
    "resnet8-tiny": resnet8_tiny,
    "mobilenet_v1-tiny": mobilenet_v1_tiny,
}
