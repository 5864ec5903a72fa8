"""The models by name: the function that builds each, its size, the images that it was published for, and the source."""

from collections.abc import Callable
from dataclasses import dataclass

from foveal.display import Text, text_table
from foveal.display import table as html_table
from foveal.errors import ShapeError
from foveal.names import bare, meant
from foveal.nn.models import mobilenet
from foveal.nn.models.airbench import Airbench94
from foveal.nn.models.alexnet import AlexNet
from foveal.nn.models.blocks import Size
from foveal.nn.models.densenet import DenseNet
from foveal.nn.models.efficientnet import EfficientNet
from foveal.nn.models.googlenet import GoogLeNet
from foveal.nn.models.lenet import LeNet5
from foveal.nn.models.mlperf_tiny import ResNet8, TinyMobileNet
from foveal.nn.models.mobilenet import MobileNetV1, MobileNetV2, MobileNetV3
from foveal.nn.models.resnet import CifarResNet, ResNet
from foveal.nn.models.small import SmallNet
from foveal.nn.models.vgg import VGG, CifarVGG
from foveal.nn.module import Module

# called as builder(channels, (rows, columns), classes)
Builder = Callable[[int, Size, int], Module]


@dataclass(frozen=True)
class Entry:
    """A model of the table.

    build: called as build(channels, (rows, columns), classes). parameters: the number of trained numbers, for `image`
    and 1000 classes. image: (channels, rows, columns) of the images that it was published for. source: where.
    """

    build: Builder
    parameters: int
    image: tuple[int, int, int]
    source: str


# (channels, rows, columns)
IMAGENET, CIFAR = (3, 224, 224), (3, 32, 32)
VGG_PAPER = "Simonyan, Zisserman 2015"
RESNET_PAPER = "He, Zhang, Ren, Sun 2016"
V3_PAPER = "Howard et al. 2019"
GOOGLENET_PAPER = "Szegedy et al. 2015"
TINY_PAPER = "Banbury et al. 2021, MLPerf Tiny"


def vgg(depth: int, norm: bool) -> Builder:
    """A builder of VGG of this depth; norm: True has batch norm."""
    return lambda channels, size, classes: VGG(depth, channels, size, classes, norm)


def resnet(depth: int, small_images: bool = False) -> Builder:
    """A builder of the residual networks of table 1."""
    return lambda channels, _, classes: ResNet(depth, channels, classes, small_images)


def cifar_resnet(depth: int) -> Builder:
    """A builder of the residual networks of section 4.2, for small images."""
    return lambda channels, _, classes: CifarResNet(depth, channels, classes)


def googlenet(aux_logits: bool) -> Builder:
    """A builder of GoogLeNet, with or without auxiliary classifiers."""
    return lambda channels, size, classes: GoogLeNet(channels, size, classes, aux_logits)


def densenet_small(channels: int, size: Size, classes: int) -> Module:
    """DenseNet-BC of 100 layers with growth 12 (Huang et al. 2017, table 2), for images of 32x32."""
    return DenseNet(channels, size, classes, growth=12, blocks=(16, 16, 16), width=24, small_images=True)


def mobilenet_v3(rows: mobilenet.Rows, last: int) -> Builder:
    """A builder of MobileNetV3, large or small."""
    return lambda channels, _, classes: MobileNetV3(rows, last, channels, classes)


MODELS: dict[str, Entry] = {
    "small": Entry(lambda c, _, k: SmallNet(c, k), 130_184, (1, 28, 28), "Foveal"),
    "lenet5": Entry(LeNet5, 145_856, (1, 28, 28), "LeCun, Bottou, Bengio, Haffner 1998"),
    "alexnet": Entry(AlexNet, 61_100_840, IMAGENET, "Krizhevsky, Sutskever, Hinton 2012; Krizhevsky 2014"),
    "vgg11": Entry(vgg(11, False), 132_863_336, IMAGENET, VGG_PAPER),
    "vgg11_bn": Entry(vgg(11, True), 132_868_840, IMAGENET, VGG_PAPER),
    "vgg13": Entry(vgg(13, False), 133_047_848, IMAGENET, VGG_PAPER),
    "vgg13_bn": Entry(vgg(13, True), 133_053_736, IMAGENET, VGG_PAPER),
    "vgg16": Entry(vgg(16, False), 138_357_544, IMAGENET, VGG_PAPER),
    "vgg16_bn": Entry(vgg(16, True), 138_365_992, IMAGENET, VGG_PAPER),
    "vgg19": Entry(vgg(19, False), 143_667_240, IMAGENET, VGG_PAPER),
    "vgg19_bn": Entry(vgg(19, True), 143_678_248, IMAGENET, VGG_PAPER),
    "vgg16-cifar": Entry(CifarVGG, 15_236_136, CIFAR, VGG_PAPER),
    "resnet18": Entry(resnet(18), 11_689_512, IMAGENET, RESNET_PAPER),
    "resnet34": Entry(resnet(34), 21_797_672, IMAGENET, RESNET_PAPER),
    "resnet50": Entry(resnet(50), 25_557_032, IMAGENET, RESNET_PAPER),
    "resnet18-cifar": Entry(resnet(18, True), 11_681_832, CIFAR, RESNET_PAPER),
    "resnet20": Entry(cifar_resnet(20), 336_824, CIFAR, RESNET_PAPER),
    "resnet32": Entry(cifar_resnet(32), 531_256, CIFAR, RESNET_PAPER),
    "resnet44": Entry(cifar_resnet(44), 725_688, CIFAR, RESNET_PAPER),
    "resnet56": Entry(cifar_resnet(56), 920_120, CIFAR, RESNET_PAPER),
    "googlenet": Entry(googlenet(False), 6_624_904, IMAGENET, GOOGLENET_PAPER),
    "googlenet_aux": Entry(googlenet(True), 13_004_888, IMAGENET, GOOGLENET_PAPER),
    "mobilenet_v1": Entry(lambda c, _, k: MobileNetV1(c, k), 4_231_976, IMAGENET, "Howard et al. 2017"),
    "mobilenet_v2": Entry(lambda c, _, k: MobileNetV2(c, k), 3_504_872, IMAGENET, "Sandler et al. 2018"),
    "mobilenet_v3_large": Entry(mobilenet_v3(mobilenet.LARGE, 1280), 5_483_032, IMAGENET, V3_PAPER),
    "mobilenet_v3_small": Entry(mobilenet_v3(mobilenet.SMALL, 1024), 2_542_856, IMAGENET, V3_PAPER),
    "densenet121": Entry(DenseNet, 7_978_856, IMAGENET, "Huang, Liu, van der Maaten, Weinberger 2017"),
    "densenet100-cifar": Entry(densenet_small, 1_108_732, CIFAR, "Huang, Liu, van der Maaten, Weinberger 2017"),
    "efficientnet_b0": Entry(lambda c, _, k: EfficientNet(c, k), 5_288_548, IMAGENET, "Tan, Le 2019"),
    "resnet8-tiny": Entry(ResNet8, 142_536, CIFAR, TINY_PAPER),
    "mobilenet_v1-tiny": Entry(TinyMobileNet, 472_808, (3, 96, 96), TINY_PAPER),
    "airbench94": Entry(Airbench94, 2_226_232, CIFAR, "Jordan 2024"),
}
NAMES = tuple(MODELS)


def canonical(name: str) -> str:
    """Return the name as it stands in MODELS; capitals, hyphens and underscores do not matter.

    Raises ShapeError for a name that is not there.
    """
    known = {bare(name): name for name in MODELS}.get(bare(name))
    if known is None:
        raise ShapeError(f"there is no model called {name!r}{meant(name, NAMES)}; choose one of {', '.join(NAMES)}")
    return known


def table() -> Text:
    """Return a text with a line for each model, a table in a notebook: its name, size, images and source."""
    columns = ("model", "parameters", "images", "published")
    rows = [(n, f"{e.parameters:,}", "x".join(map(str, e.image)), e.source) for n, e in MODELS.items()]
    return Text(text_table(columns, rows), html_table(columns, rows))
