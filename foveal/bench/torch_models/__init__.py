"""Networks of foveal.nn.models in PyTorch, with the same parameter names, to compare with. They need PyTorch.

They are written from torchvision's definitions: its names, hyper-parameters and order of layers. In the networks that
`foveal bench` times, activations overwrite their input where torchvision's do.

registry.py   MODELS and build(name, ...): every network by its name in foveal.nn.models
blocks.py     what several families share: convolution and norm, heads, squeeze and excitation, shortcuts
lenet.py      LeNet-5
alexnet.py    AlexNet
vgg.py        VGG-11 to VGG-19, and the one for CIFAR
resnet.py     ResNets, for ImageNet and for CIFAR
googlenet.py  GoogLeNet with its auxiliary classifiers
mobilenet.py  MobileNets V1, V2 and V3
densenet.py   DenseNets
efficientnet.py  EfficientNet-B0
tiny.py       MLPerf Tiny's ResNet-8 and MobileNet
airbench.py   airbench94
"""

from foveal.bench.torch_models.registry import MODELS, build

__all__ = ["MODELS", "build"]
