"""Weights that were trained on ImageNet, by the name of the model, and the preprocessing that stored weights expect.

What a file of weights expects is not in its numbers: a network gives other answers, without an error, for images that
were cut or normalised otherwise. `transforms_of` finds it where it is written down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.data.decoding.pixels import BLACK
from foveal.data.decoding.preprocessing import INTERPOLATIONS, Preprocessing
from foveal.errors import ArgumentError, DataError, StateError
from foveal.kinds import shown
from foveal.names import bare

# Per channel, of the pixels of ImageNet's training images from 0 to 1: what torchvision and timm normalise by.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# GoogLeNet's weights of torchvision are for images from -1 to 1: its network converts the ones that are normalised by
# MEAN and STD (transform_input), ours takes what it is given.
CENTRED = (0.5, 0.5, 0.5)
# of the images that a network was published for: (rows, columns)
IMAGENET_SIZE = (224, 224)
MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"


def imagenet(crop: float, interpolation: str) -> Preprocessing:
    """The preprocessing of images of 224x224 that are cut out of larger ones and normalised by MEAN and STD."""
    return Preprocessing(3, IMAGENET_SIZE, fit="crop", crop=crop, interpolation=interpolation, mean=MEAN, std=STD)


@dataclass(frozen=True)
class Pretrained:
    """Weights in a repository of the Hugging Face hub."""

    #: "owner/name".
    repository: str
    #: As the model card says; None where it is asked for there.
    licence: str | None = None
    #: Of the file, in hexadecimal digits; None where the hub's own word is what the download is compared with.
    sha256: str | None = None
    #: The commit, or the name of a branch.
    revision: str = "main"
    #: None where the repository says it, in a config.json.
    preprocessing: Preprocessing | None = None
    file: str = MODEL_FILE


APACHE, BSD = "apache-2.0", "bsd-3-clause"
# timm's recipe A1 tests on images that are cut less; its other weights, and torchvision's, are tested on the middle 7/8
A1, SEVEN_EIGHTHS, BILINEAR = imagenet(0.95, "bicubic"), imagenet(0.875, "bicubic"), imagenet(0.875, "bilinear")

#: By the name of the model. Licences, checksums and commits are those of the pages of the hub; preprocessing is that of
#: timm's configurations.
PRETRAINED: dict[str, Pretrained] = {
    "resnet18": Pretrained(
        "timm/resnet18.a1_in1k",
        APACHE,
        "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
        "ebd61f9c7420e5b5b53262b8ce6bbe311e1e872a",
        A1,
    ),
    "resnet34": Pretrained("timm/resnet34.a1_in1k", APACHE, preprocessing=A1),
    "resnet50": Pretrained(
        "timm/resnet50.a1_in1k",
        APACHE,
        "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb",
        "5d9e13b8fdab4d9718bcf2c8f5c3af01878367e8",
        A1,
    ),
    "mobilenet_v2": Pretrained(
        "timm/mobilenetv2_100.ra_in1k",
        APACHE,
        "55ea4fb3a96010b933710ebf44fc965b070d5cd054d3f35e44f2d1320b4a714e",
        "f3ff81ba89de0bc46b546568ebeab2edef6b9d49",
        SEVEN_EIGHTHS,
    ),
    "mobilenet_v3_large": Pretrained(
        "timm/mobilenetv3_large_100.ra_in1k",
        APACHE,
        "f425af34cc1cead2b5d6211f789a1f30b94835dc32f9c0fcc5a916e4fd2dde85",
        preprocessing=SEVEN_EIGHTHS,
    ),
    "mobilenet_v3_small": Pretrained("timm/mobilenetv3_small_100.lamb_in1k", APACHE, preprocessing=SEVEN_EIGHTHS),
    "efficientnet_b0": Pretrained("timm/efficientnet_b0.ra_in1k", APACHE, preprocessing=SEVEN_EIGHTHS),
    "densenet121": Pretrained(
        "timm/densenet121.tv_in1k",
        APACHE,
        "c894c6d9caa317a8ca1942986dee7a16a86c77734a4d691d2abe05389cfef358",
        preprocessing=SEVEN_EIGHTHS,
    ),
    "vgg16": Pretrained(
        "timm/vgg16.tv_in1k",
        BSD,
        "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        "3394518cba29aee1ea82a49d971be90d2dd1dab7",
        BILINEAR,
    ),
    "vgg16_bn": Pretrained(
        "timm/vgg16_bn.tv_in1k",
        BSD,
        "88bbedbc8e780413736db38ac4efd41b06fc0e93fd5b8879b584bba63a950129",
        "e00c01e7cee168262dcba6428dc4a8f41e27e965",
        BILINEAR,
    ),
    "vgg19_bn": Pretrained(
        "timm/vgg19_bn.tv_in1k",
        BSD,
        "f8249087e63bae61c6166bb23d7c26efe1b2a43fd9fb5cd60ac6ce00535ba312",
        preprocessing=BILINEAR,
    ),
}


def known(name: str) -> str | None:
    """Return the name as it stands in PRETRAINED, in which capitals, hyphens and underscores do not matter, or None."""
    return {bare(known): known for known in PRETRAINED}.get(bare(name))


def transforms_of(weights: object) -> Preprocessing:
    """Return the preprocessing that stored weights expect: size, share that is cut, interpolation, mean and std.

        expected = data.transforms_of("resnet18")
        x = expected.read("photo.jpg")  # uint8 [3, 224, 224]; the network gets (x / 255 - expected.mean) / expected.std

    weights: a name of `foveal train --pretrained`; the folder or the model file of a run; a file of torchvision's or
    timm's weights; a timm configuration, as config.json or as a dict; or torchvision's `weights.transforms()`.

    Of a file of weights that is no run's, the preprocessing is that of a config.json in its folder, as timm's
    repositories have it. Without one it is what torchvision's weights of that model were tested with (its first
    version, IMAGENET1K_V1: the shorter side is resized to 256, bilinear, and the middle 224x224 is cut out).

    Raises DataError where there is no such name or file, and StateError where nothing says what the weights expect.
    """
    if isinstance(weights, Preprocessing):
        return weights
    if isinstance(weights, Mapping):
        return of_timm(weights, "the configuration")
    if hasattr(weights, "crop_size"):
        return of_torchvision(weights)
    if not isinstance(weights, str | Path):
        raise ArgumentError(
            f"transforms_of: weights is {shown(weights)}; give a name, a path, or a configuration of timm's"
        )
    path = Path(weights)
    if (name := known(str(weights))) is not None and not path.exists():
        expected = PRETRAINED[name].preprocessing
        assert expected is not None
        return expected
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise DataError(
            f"{weights}: there is no such file, and no weights of that name; names are {', '.join(PRETRAINED)}"
        )
    if path.suffix == ".json":
        return of_timm(read_json(path), str(path))
    # Networks take a while to be imported, and data are read without them.
    from foveal.nn.saving import KEY
    from foveal.nn.stored import opened

    with opened(path) as file:
        description = (file.metadata() or {}).get(KEY)
    if description is not None:
        return of_run(description, path)
    config = path.parent / CONFIG_FILE
    return of_timm(read_json(config), str(config)) if config.is_file() else of_model(path)


def of_model(path: Path) -> Preprocessing:
    """Return what torchvision's weights of the model that a file holds expect.

    Raises StateError for models that torchvision has no weights of.
    """
    from foveal.nn.models.recognise import recognised
    from foveal.nn.models.registry import MODELS

    name, channels = recognised(path)
    if MODELS[name].image != (3, *IMAGENET_SIZE) or channels != 3 or name == "mobilenet_v1":
        raise StateError(
            f"{path}: holds weights of {name}, and does not say what images they expect: write it down beside the file,"
            f' in {path.parent / CONFIG_FILE}, such as {{"input_size": [{channels}, 32, 32], "mean": [0.5], "std":'
            ' [0.25], "crop_pct": 1.0, "interpolation": "bilinear"}'
        )
    if name.startswith("googlenet"):
        return Preprocessing(
            3, IMAGENET_SIZE, fit="crop", crop=0.875, interpolation="bilinear", mean=CENTRED, std=CENTRED
        )
    return BILINEAR


def of_run(description: str, path: Path) -> Preprocessing:
    """Return what the model file of a run says of its images. Raises StateError where it says nothing of them."""
    try:
        entry = json.loads(description)
        # Where nothing is said of files, what is transparent is black. The other fields stand beside that.
        given = entry.get("preprocessing") or {"fit": "stretch", "background": BLACK}
        given = given | {name: entry[name] for name in ("channels", "size", "mean", "std", "value_range")}
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        return Preprocessing(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, DataError) as error:
        raise StateError(
            f"{path}: does not say what images its network expects ({type(error).__name__}: {error}); it is the model"
            " of a run on arrays, or damaged"
        ) from None


def of_timm(config: Mapping[str, Any], where: str) -> Preprocessing:
    """Return the preprocessing of a timm configuration: a pretrained_cfg, or a config.json, which holds one.

    Raises StateError that names where the configuration is, and the field.
    """
    entry = config.get("pretrained_cfg", config)
    try:
        channels, *size = entry["input_size"]
        interpolation = str(entry.get("interpolation", "bilinear"))
        # timm draws one of several filters for training images; it tests with bilinear ones
        interpolation = "bilinear" if interpolation == "random" else interpolation
        if entry.get("crop_mode", "center") != "center":
            raise ValueError(f"crop_mode is {entry['crop_mode']!r}, and only center is known here")
        crop = float(entry.get("crop_pct") or 0.875)
        return Preprocessing(
            channels,
            (size[0], size[1]),
            fit="crop",
            crop=min(crop, 1.0),
            interpolation=interpolation,
            mean=tuple(map(float, entry["mean"])),
            std=tuple(map(float, entry["std"])),
        )
    except KeyError as error:
        raise StateError(f"{where}: lacks {error.args[0]!r}, which a configuration of timm has") from None
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise StateError(f"{where}: no configuration of timm that is known here: {error}") from None


def of_torchvision(transforms: Any) -> Preprocessing:
    """Return torchvision's preset `ImageClassification`, which `weights.transforms()` makes, as a Preprocessing.

    Raises StateError for a filter that is not known here.
    """
    size, resized = int(transforms.crop_size[0]), int(transforms.resize_size[0])
    interpolation = str(getattr(transforms.interpolation, "value", transforms.interpolation))
    if interpolation not in INTERPOLATIONS:
        raise StateError(f"the transforms resize by {interpolation}; known here are {', '.join(INTERPOLATIONS)}")
    mean, std = tuple(map(float, transforms.mean)), tuple(map(float, transforms.std))
    return Preprocessing(
        len(mean), (size, size), fit="crop", crop=size / resized, interpolation=interpolation, mean=mean, std=std
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object that a JSON file holds. Raises StateError where it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise StateError(f"{path}: holds {shown(found)} in place of an object")
    return found
