"""Small valid files of each format. A sample is (name of the file that is damaged, all files of its folder by name)."""

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from random import Random

import numpy as np
from PIL import Image

from foveal.data.formats import cifar

# Bytes by the name of the file.
Files = dict[str, bytes]
Sample = tuple[str, Files]

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# Images of the samples, and the class of each.
COUNT, SIDE = 6, 9
LABELS = np.arange(COUNT) % 3


def pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Smooth bytes, so that every compression has something to do."""
    return (
        (np.add.outer(np.arange(np.prod(shape[:-1])) * 7, np.arange(shape[-1]) * 5) % 256).astype("u1").reshape(shape)
    )


def idx(draw: Random) -> Sample:
    images = struct.pack(">4I", 0x0803, COUNT, SIDE, SIDE) + pixels((COUNT, SIDE, SIDE)).tobytes()
    labels = struct.pack(">2I", 0x0801, COUNT) + LABELS.astype("u1").tobytes()
    files = dict(zip(IDX_NAMES, (images, labels, images, labels), strict=True))
    chosen = draw.choice(IDX_NAMES)
    if draw.random() < 0.3:
        files[f"{chosen}.gz"] = gzip.compress(files.pop(chosen), mtime=0)
        chosen += ".gz"
    return chosen, files


def cifar10(draw: Random) -> Sample:
    labels = np.arange(3, dtype="u1")[:, None]
    records = np.hstack([labels, pixels((3, 3072))]).tobytes()
    version = cifar.CIFAR10
    names = "\n".join(f"class {i}" for i in range(10)).encode()
    files = dict.fromkeys((*version.train, version.test), records) | {version.names: names}
    return draw.choice((version.train[0], version.test, version.names)), files


def npz(draw: Random) -> Sample:
    x = pixels((COUNT, SIDE, SIDE))
    if draw.random() < 0.4:
        x = (x / 255).astype(draw.choice(("<f4", "<f8", ">f4", "<f2")))
    y = LABELS.astype(draw.choice(("u1", "<i8", ">i2")))
    save = draw.choice((np.savez, np.savez_compressed))
    buffer = io.BytesIO()
    save(buffer, x_train=x, y_train=y, x_test=x, y_test=y, classes=np.array(["a", "bc", "ä"]))
    return "set.npz", {"set.npz": buffer.getvalue()}


def tar(draw: Random) -> Sample:
    """A shard of images, some with long names, whose classes stand in one of the three ways."""
    extension, buffer = draw.choice(("cls", "json", "txt")), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=draw.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as shard:
        for i in range(2 * COUNT):
            image = io.BytesIO()
            Image.fromarray(pixels((SIDE, SIDE, 3)) + np.uint8(i)).save(image, "PNG")
            label = json.dumps({"label": int(LABELS[i % COUNT])} if extension == "json" else int(LABELS[i % COUNT]))
            for name, content in (("png", image.getvalue()), (extension, label.encode())):
                member = tarfile.TarInfo(f"{'ä' * 150 if i == 2 else 'd/'}{i}.{name}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    return "set.tar", {"set.tar": buffer.getvalue()}


def parquet(draw: Random) -> Sample:
    """Images and classes as Hugging Face's data sets have them, or columns that say nothing of themselves."""
    import pyarrow
    import pyarrow.parquet

    images: list[object] = []
    for i in range(2 * COUNT):
        image = io.BytesIO()
        Image.fromarray(pixels((SIDE, SIDE, 3)) + np.uint8(i)).save(image, "PNG")
        images.append(image.getvalue())
    labels = [int(LABELS[i % COUNT]) for i in range(2 * COUNT)]
    described = draw.random() < 0.6
    if described:
        images = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(images)]
    table = pyarrow.table({"image": images, "label": labels if described else [f"c{label}" for label in labels]})
    if described:
        features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    compression = draw.choice(("none", "snappy", "gzip", "zstd"))
    pyarrow.parquet.write_table(table, buffer, row_group_size=5, compression=compression)
    return "set.parquet", {"set.parquet": buffer.getvalue()}


@cache
def network() -> bytes:
    """A model file of the smallest network, with zeros for weights."""
    from safetensors.numpy import save

    from foveal.nn import models

    description = {
        "model": "small",
        "data": "set",
        "channels": 1,
        "size": [SIDE, SIDE],
        "classes": ["a", "b", "c"],
        "mean": [0.3],
        "std": [0.4],
        "value_range": [0.0, 1.0],
        "preprocessing": {"fit": "crop", "crop": 0.875, "interpolation": "bilinear", "background": [0, 9, 255]},
        "temperature": 1.5,
        "thresholds": [0.0, 0.5, 1.0],
        "licence": "mit",
        "tta": "flip",
    }
    net = models.build("small", channels=1, size=(SIDE, SIDE), classes=3)
    state = {name: np.zeros_like(value) for name, value in net.state_dict().items()}
    return save(state, metadata={"foveal": json.dumps(description)})


def safetensors(draw: Random) -> Sample:
    return "model.safetensors", {"model.safetensors": network()}


def picture(format: str, modes: tuple[str, ...], *options: dict[str, object]) -> Callable[[Random], Sample]:
    """Samples of one of Pillow's formats, in one of the modes and with one of the sets of options."""

    def make(draw: Random) -> Sample:
        mode = draw.choice(modes)
        image = Image.fromarray(pixels((24, 20, 3)))
        if mode.startswith("I;16"):
            image = Image.fromarray(pixels((24, 20)).astype("<u2") * 257)
        else:
            image = image.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, format, **draw.choice(options or ({},)))
        name = f"image.{format.lower()}"
        return name, {name: buffer.getvalue()}

    return make


FRAMES = [Image.new("RGB", (20, 24), (k * 60, 9, 9)) for k in range(3)]
EXIF = Image.Exif()
EXIF[0x0112] = 6
COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
SAMPLES: dict[str, Callable[[Random], Sample]] = {
    "idx": idx,
    "cifar": cifar10,
    "npz": npz,
    "tar": tar,
    "safetensors": safetensors,
    "png": picture("PNG", ("RGB", "L", "RGBA", "P", "1", "LA", "I;16"), {}, {"exif": EXIF}),
    "jpeg": picture("JPEG", ("RGB", "L", "CMYK"), {}, {"progressive": True}, {"exif": EXIF}),
    "tiff": picture("TIFF", ("RGB", "L"), *({"compression": name} for name in COMPRESSIONS)),
    "gif": picture("GIF", ("RGB", "P", "L"), {}, {"save_all": True, "append_images": FRAMES}, {"interlace": 1}),
    "webp": picture("WEBP", ("RGB", "RGBA"), {}, {"lossless": True}, {"exif": EXIF}),
    "bmp": picture("BMP", ("RGB", "L", "P", "1")),
}
if find_spec("pyarrow") is not None:
    SAMPLES["parquet"] = parquet
