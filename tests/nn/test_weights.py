"""Loading stored weights: torchvision's names and timm's, classifiers of another size, and files that do not fit."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from foveal.errors import DataError, StateError
from foveal.nn import models
from foveal.nn.models.densenet import DenseNet
from foveal.nn.models.mobilenet import V3_EPS
from foveal.nn.models.vgg import VGG
from foveal.nn.models.weights import load_weights, same_values, translated

# timm's definitions: per stage, repeats, kind (ds, ir, or cn), kernel, expanded channels, channels, squeezed channels
B0 = (
    "1 ds 3 32 16 8",
    "/",
    "1 ir 3 96 24 4",
    "1 ir 3 144 24 6",
    "/",
    "1 ir 5 144 40 6",
    "1 ir 5 240 40 10",
    "/",
    "1 ir 3 240 80 10",
    "2 ir 3 480 80 20",
    "/",
    "1 ir 5 480 112 20",
    "2 ir 5 672 112 28",
    "/",
    "1 ir 5 672 192 28",
    "3 ir 5 1152 192 48",
    "/",
    "1 ir 3 1152 320 48",
)
LARGE = (
    "1 ds 3 16 16 0",
    "/",
    "1 ir 3 64 24 0",
    "1 ir 3 72 24 0",
    "/",
    "1 ir 5 72 40 24",
    "2 ir 5 120 40 32",
    "/",
    "1 ir 3 240 80 0",
    "1 ir 3 200 80 0",
    "2 ir 3 184 80 0",
    "/",
    "1 ir 3 480 112 120",
    "1 ir 3 672 112 168",
    "/",
    "1 ir 5 672 160 168",
    "2 ir 5 960 160 240",
    "/",
    "1 cn 1 0 960 0",
)
SMALL = (
    "1 ds 3 16 16 8",
    "/",
    "1 ir 3 72 24 0",
    "1 ir 3 88 24 0",
    "/",
    "1 ir 5 96 40 24",
    "2 ir 5 240 40 64",
    "/",
    "1 ir 5 120 48 32",
    "1 ir 5 144 48 40",
    "/",
    "1 ir 5 288 96 72",
    "2 ir 5 576 96 144",
    "/",
    "1 cn 1 0 576 0",
)
V2 = (
    "1 ds 3 32 16 0",
    "/",
    "1 ir 3 96 24 0",
    "1 ir 3 144 24 0",
    "/",
    "1 ir 3 144 32 0",
    "2 ir 3 192 32 0",
    "/",
    "1 ir 3 192 64 0",
    "3 ir 3 384 64 0",
    "/",
    "1 ir 3 384 96 0",
    "2 ir 3 576 96 0",
    "/",
    "1 ir 3 576 160 0",
    "2 ir 3 960 160 0",
    "/",
    "1 ir 3 960 320 0",
)


def norm(name, width):
    found = {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
    return found | {f"{name}.num_batches_tracked": ()}


def conv(name, *shape, bias=False):
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def timm(stages, stem, head, classes):
    """Names and shapes of timm's EfficientNet, MobileNetV2 and MobileNetV3, in its order."""
    state, inputs, stage, i = conv("conv_stem", stem, 3, 3, 3) | norm("bn1", stem), stem, 0, 0
    for row in stages:
        if row == "/":
            stage, i = stage + 1, 0
            continue
        repeats, kind, *sizes = row.split()
        kernel, inner, outputs, squeezed = map(int, sizes)
        for _ in range(int(repeats)):
            prefix, i = f"blocks.{stage}.{i}", i + 1
            if kind == "cn":
                state |= conv(f"{prefix}.conv", outputs, inputs, 1, 1) | norm(f"{prefix}.bn1", outputs)
                continue
            first = [("conv_pw", (inner, inputs, 1, 1))] if kind == "ir" else []
            last = ("conv_pwl" if kind == "ir" else "conv_pw", (outputs, inner, 1, 1))
            layers = [*first, ("conv_dw", (inner, 1, kernel, kernel)), last]
            for n, (name, shape) in enumerate(layers, 1):
                state |= conv(f"{prefix}.{name}", *shape) | norm(f"{prefix}.bn{n}", shape[0])
            if squeezed:
                state |= conv(f"{prefix}.se.conv_reduce", squeezed, inner, 1, 1, bias=True)
                state |= conv(f"{prefix}.se.conv_expand", inner, squeezed, 1, 1, bias=True)
            inputs = outputs
    features, biased = head
    inputs = (stages[-1].startswith("1 cn") and int(stages[-1].split()[4])) or inputs
    state |= conv("conv_head", features, inputs, 1, 1, bias=biased)
    state |= {} if biased else norm("bn2", features)
    return state | conv("classifier", classes, features, bias=True)


# stages, channels of the stem, and of the head, with a bias or a norm
TIMM = {
    "efficientnet_b0": (B0, 32, (1280, False)),
    "mobilenet_v2": (V2, 32, (1280, False)),
    "mobilenet_v3_large": (LARGE, 16, (1280, True)),
    "mobilenet_v3_small": (SMALL, 16, (1024, True)),
}


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: np.zeros((), np.int64) if name.endswith("tracked") else rng.random(shape, np.float32)
        for name, shape in shapes.items()
    }


def stored(folder, state):
    path = folder / "model.safetensors"
    save_file({name: np.asarray(value, order="C") for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("name", TIMM)
def test_timms_names_become_ours(name, tmp_path):
    """Every entry of the file goes to one of the model of its shape, in the order in which both compute."""
    state = drawn(timm(*TIMM[name], classes=5))
    model, report = models.load(name, stored(tmp_path, state))
    assert report.names == "timm"
    assert not report.kept
    assert not report.ignored
    own = model.state_dict()
    assert len(own) == len(state) == len(report.loaded)
    # the difference between timm's eps of batch norm and the model's
    change = 1e-5 - V3_EPS if "v3" in name else 0.0
    ours = {key: sorted(float(v.sum()) for k, v in own.items() if kind(k) == key) for key in KINDS}
    theirs = {
        key: sorted(float((v + change * (key == "running_var")).sum()) for k, v in state.items() if kind(k) == key)
        for key in KINDS
    }
    for key in KINDS:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6)


KINDS = ("weight", "bias", "running_mean", "running_var")


def kind(name):
    return name.rpartition(".")[2]


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        (
            "efficientnet_b0",
            {
                "conv_stem.weight": "features.0.0.weight",
                "blocks.0.0.conv_dw.weight": "features.1.0.block.0.0.weight",
                "blocks.0.0.se.conv_reduce.bias": "features.1.0.block.1.fc1.bias",
                "blocks.0.0.bn2.weight": "features.1.0.block.2.1.weight",
                "blocks.3.1.conv_pw.weight": "features.4.1.block.0.0.weight",
                "blocks.3.1.se.conv_expand.weight": "features.4.1.block.2.fc2.weight",
                "blocks.6.0.bn3.running_mean": "features.7.0.block.3.1.running_mean",
                "bn2.bias": "features.8.1.bias",
                "classifier.bias": "classifier.1.bias",
            },
        ),
        (
            "mobilenet_v3_large",
            {
                "blocks.0.0.conv_pw.weight": "features.1.block.1.0.weight",
                "blocks.2.0.bn2.bias": "features.4.block.1.1.bias",
                "blocks.2.0.se.conv_reduce.weight": "features.4.block.2.fc1.weight",
                "blocks.3.3.conv_pwl.weight": "features.10.block.2.0.weight",
                "blocks.6.0.bn1.weight": "features.16.1.weight",
                "conv_head.bias": "classifier.0.bias",
                "classifier.weight": "classifier.3.weight",
            },
        ),
        (
            "mobilenet_v2",
            {
                "blocks.0.0.bn1.bias": "features.1.conv.0.1.bias",
                "blocks.0.0.bn2.bias": "features.1.conv.2.bias",
                "blocks.5.2.conv_dw.weight": "features.16.conv.1.0.weight",
                "blocks.5.2.conv_pwl.weight": "features.16.conv.2.weight",
                "blocks.5.2.bn3.running_var": "features.16.conv.3.running_var",
                "conv_head.weight": "features.18.0.weight",
            },
        ),
    ],
)
def test_where_timms_entries_go(name, pairs, tmp_path):
    state = drawn(timm(*TIMM[name], classes=5))
    model, _ = models.load(name, stored(tmp_path, state))
    own = model.state_dict()
    for theirs, ours in pairs.items():
        np.testing.assert_array_equal(own[ours].ravel(), state[theirs].ravel())


def test_timms_vgg_has_convolutions_for_linear_layers():
    theirs = conv("features.0", 64, 3, 3, 3, bias=True) | conv("head.fc", 5, 4096, bias=True)
    theirs |= conv("pre_logits.fc1", 4096, 512, 7, 7, bias=True)
    theirs |= conv("pre_logits.fc2", 4096, 4096, 1, 1, bias=True)
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in theirs.items()}
    names, found = translated(VGG.__new__(VGG), state)
    assert names == "timm"
    shapes = {name: value.shape for name, value in found.items()}
    linear = {"classifier.0.weight": (4096, 512 * 7 * 7), "classifier.3.weight": (4096, 4096)}
    assert all(same_values(shapes.pop(name), shape) for name, shape in linear.items())
    assert shapes == {
        "features.0.weight": (64, 3, 3, 3),
        "features.0.bias": (64,),
        "classifier.0.bias": (4096,),
        "classifier.3.bias": (4096,),
        "classifier.6.weight": (5, 4096),
        "classifier.6.bias": (5,),
    }
    assert not same_values((4096, 512, 7, 7), (4096, 512))


def test_another_number_of_classes(tmp_path):
    source = models.build("resnet20", channels=3, size=(8, 8), classes=10, seed=1)
    path = stored(tmp_path, source.state_dict())
    model, report = models.load("resnet20", path, size=(8, 8))
    # with as many classes as the file has
    assert not report.kept
    model, report = models.load("resnet20", path, classes=3, head="skip", seed=2)
    fresh = models.build("resnet20", channels=3, size=(8, 8), classes=3, seed=2).state_dict()
    for name, value in model.state_dict().items():
        given = fresh[name] if name.startswith("fc.") else source.state_dict()[name]
        np.testing.assert_array_equal(value, given)
    assert report.kept == ("fc.weight", "fc.bias")
    assert set(report.ignored) == set(report.kept)
    assert "left at their starting values: fc.weight, fc.bias" in str(report)
    assert "loaded 126 entries with torchvision's names" in str(report)


def test_older_and_smaller_formats(tmp_path):
    """Half precision, no counters, and the names that DenseNet's published weights have."""
    source = DenseNet(3, (8, 8), 5, growth=4, blocks=(2,), width=8, small_images=True)
    state = source.state_dict()
    for number in (1, 2):
        for part in ("norm", "conv"):
            for name in [n for n in state if f".{part}{number}." in n]:
                state[name.replace(f"{part}{number}.", f"{part}.{number}.")] = state.pop(name)
    assert "features.denseblock1.denselayer2.norm.1.weight" in state
    state = {n: v.astype(np.float16) for n, v in state.items() if not n.endswith("tracked")}
    model = DenseNet(3, (8, 8), 5, growth=4, blocks=(2,), width=8, small_images=True)
    report = load_weights(model, stored(tmp_path, state))
    assert all(name.endswith("num_batches_tracked") for name in report.kept)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, source.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_the_state_of_another_network_is_a_short_error(tmp_path):
    """Of 107 names that are missing and 80 that are left over: the first ones, how many more, and the way out."""
    net, other = (models.build(name, channels=3, size=(32, 32), classes=10) for name in ("resnet20", "vgg16-cifar"))
    with pytest.raises(StateError) as caught:
        net.load_state_dict(other.state_dict())
    text = str(caught.value)
    assert len(text) < 800
    assert re.search(r"missing:\n    conv1.weight .*\n.*\n.*\n    and \d+ more\n  left over:", text)
    assert text.endswith("or load what fits with strict=False")


def test_googlenets_auxiliary_heads_may_be_left_out(tmp_path):
    source = models.build("googlenet_aux", channels=3, size=(15, 15), classes=4)
    path = stored(tmp_path, source.state_dict())
    _, report = models.load("googlenet", path, size=(15, 15))
    assert not report.kept
    assert {name.partition(".")[0] for name in report.ignored} == {"aux1", "aux2"}
    plain = models.build("googlenet", channels=3, size=(15, 15), classes=4).state_dict()
    with pytest.raises(StateError, match=r"(?s)missing:\s+aux1.*and 15 more.*Only the classifier"):
        models.load("googlenet_aux", stored(tmp_path, plain), size=(15, 15))


@pytest.mark.parametrize(
    ("change", "how", "words"),
    [
        ({}, {"classes": 3}, r'(?s)fc.weight +\[10, 64\] stored, \[3, 64\] in.*load with head="skip"'),
        ({"bn1.bias": None}, {}, r"missing:\s+bn1.bias +\[16\]\nLoad it into the model that it was stored"),
        ({"stem.weight": 3}, {}, r"left over:\s+stem.weight +\[3\]\nLoad it into"),
        ({"conv1.weight": 3}, {"head": "skip"}, r"of another shape:\s+conv1.weight +\[3\] stored"),
        ({}, {"head": "none"}, r"head is 'none', it has to be 'strict' or 'skip'"),
    ],
)
def test_files_that_do_not_fit_change_nothing(change, how, words, tmp_path):
    state = models.build("resnet20", channels=3, size=(8, 8), classes=10, seed=1).state_dict()
    for name, size in change.items():
        state.pop(name, None)
        if size:
            state[name] = np.zeros(size, np.float32)
    path = stored(tmp_path, state)
    model = models.build("resnet20", channels=3, size=(8, 8), classes=how.get("classes", 10), seed=2)
    before = model.state_dict()
    with pytest.raises(StateError, match=words):
        load_weights(model, path, head=how.get("head", "strict"))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    with pytest.raises(StateError, match=words):
        models.load("resnet20", path, **how)


def test_what_is_no_file_of_weights(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        models.load("resnet20", tmp_path / "nothing.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no weights at all")
    with pytest.raises(StateError, match=r"damaged, or not a safetensors file.*save_file"):
        models.load("resnet20", damaged, classes=10)
    path = stored(tmp_path, {"a.weight": np.zeros(3, np.float32)})
    with pytest.raises(StateError, match=r"has no last layer.*pass classes and head"):
        models.load("resnet20", path)
    import json
    import struct

    header = json.dumps({"fc.weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    damaged.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(StateError, match=r"fc\.weight is stored as F8_E4M3, .*store the weights as float32"):
        models.load("resnet20", damaged, classes=10)
