"""A model file whose description is damaged: one message that names file and field, before anything is built."""

import itertools
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import foveal.data
from foveal.cli import main
from foveal.data import Preprocessing
from foveal.data.readers import from_arrays
from foveal.errors import DataError, FovealError, StateError
from foveal.train import load_net, load_run, train
from foveal.train.checkpoint import model_bytes
from foveal.train.metadata import MAX_NAME, checked, parse

DESCRIPTION = {
    "model": "small",
    "data": "digits",
    "channels": 1,
    "size": [8, 8],
    "classes": ["a", "b"],
    "mean": [0.3],
    "std": [0.4],
    "value_range": [0.0, 1.0],
}
# What stands in place of a field, as JSON. The first numbers are beyond a float and beyond 64 bits.
NASTY = [
    "1e400",
    "-1e400",
    str(10**18),
    str(10**400),
    "1" * 5000,
    "NaN",
    "Infinity",
    "-1",
    "0",
    "0.5",
    "true",
    "{}",
    "[]",
    '[{"a": 1}]',
    "[[1], [1]]",
    "[" * 50_000 + "]" * 50_000,
    '"\\ud800"',
    json.dumps("n" * 5000),
    '["a", "a"]',
    '["a", "\\ud800"]',
    json.dumps(["a", "n" * 5000]),
    '["a", 1]',
    "[-1]",
    "[0]",
    "[1e-300]",
    "[NaN]",
    "[1e400]",
    "[1e39]",
    "[true]",
    '["1"]',
    "[null]",
    "[0.3, 0.3]",
    "[1, 0]",
    "[-1, 5]",
    "[0, 8]",
    "[65536, 65536]",
    "[100000000, 1]",
    "[NaN, 1]",
    "[1.0, 2.0, 3.0]",
    "not JSON",
    "",
]
# Fields that a description may lack, as they may stand there.
OPTIONAL = {
    "preprocessing": {"fit": "crop", "crop": 0.875, "interpolation": "bilinear", "background": [9, 9, 255]},
    "temperature": 1.5,
    "thresholds": [0.5, 0.0],
    "licence": "bsd-3-clause",
    "tta": "crops+flip",
}
# Values above that one field takes.
FINE = {
    "temperature": {"0.5"},
    "thresholds": {"[1, 0]", "[0.3, 0.3]"},
    "licence": {'"\\ud800"'},
    "value_range": {"[-1, 5]", "[0, 8]", "[65536, 65536]", "[0.3, 0.3]"},
    "mean": {"[-1]", "[0]", "[1e-300]"},
    "data": {'"\\ud800"'},
}


def with_field(name, value):
    """The JSON of a description in which one field is the JSON `value`."""
    fields = DESCRIPTION | OPTIONAL
    return "{" + ", ".join(f'"{n}": {value if n == name else json.dumps(v)}' for n, v in fields.items()) + "}"


DAMAGED = {
    f"{name}-{i}": with_field(name, value)
    for name in DESCRIPTION | OPTIONAL
    for i, value in enumerate(NASTY)
    if value not in FINE.get(name, ())
}
DAMAGED |= {f"without-{n}": json.dumps({k: v for k, v in DESCRIPTION.items() if k != n}) for n in DESCRIPTION}
DAMAGED |= {
    f"twice-{n}": json.dumps(DESCRIPTION)[:-1] + f', "{n}": {json.dumps(DESCRIPTION[n])}}}' for n in DESCRIPTION
}
DAMAGED |= {f"whole-{i}": value for i, value in enumerate(NASTY)}
# Each field of the preprocessing, damaged or missing, and one that this version does not know.
DAMAGED |= {
    f"preprocessing-{name}-{i}": with_field("preprocessing", f"{json.dumps(OPTIONAL['preprocessing'])[:-1]}}}").replace(
        f'"{name}": {json.dumps(OPTIONAL["preprocessing"][name])}', f'"{name}": {value}'
    )
    for name in OPTIONAL["preprocessing"]
    for i, value in enumerate(NASTY)
    if (name, value) != ("crop", "0.5")
}
DAMAGED |= {
    f"preprocessing-{name}": with_field("preprocessing", json.dumps(wrong))
    for name, wrong in (
        ("fewer", {"fit": "stretch"}),
        ("more", OPTIONAL["preprocessing"] | {"colours": "bgr"}),
        ("stretched", OPTIONAL["preprocessing"] | {"fit": "stretch"}),
        ("three", OPTIONAL["preprocessing"] | {"background": [1, 2]}),
        ("bright", OPTIONAL["preprocessing"] | {"background": [1, 2, 256]}),
    )
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on two classes of 8x8 images, the data set, and an image."""
    folder = tmp_path_factory.mktemp("run")
    y = np.arange(40) % 2
    x = (np.random.default_rng(0).integers(0, 60, (40, 8, 8)) + 180 * y[:, None, None]).astype("u1")
    np.savez(folder / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    Image.new("L", (8, 8), 200).save(folder / "image.png")
    train(foveal.data.load(folder / "set.npz"), epochs=1, batch_size=8, threads=1, out=folder / "run", quiet=True)
    return folder


def stored(folder, text):
    """Write the run's weights with another description into a folder, and return that folder."""
    raw = (folder / "run" / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = {"foveal": text}
    head = json.dumps(header).encode()
    (folder / "damaged").mkdir(exist_ok=True)
    content = struct.pack("<Q", len(head)) + head + raw[8 + length :]
    (folder / "damaged" / "model.safetensors").write_bytes(content)
    return folder / "damaged"


def text_of(raw):
    """The description in the bytes of a model file."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["foveal"])


def test_the_descriptions_that_are_damaged_here_are_right_otherwise(run):
    plain, whole = (load_run(stored(run, json.dumps(entry)))[0] for entry in (DESCRIPTION, DESCRIPTION | OPTIONAL))
    assert (plain.std, plain.preprocessing, plain.temperature, plain.thresholds) == ((0.4,), None, 1.0, None)
    assert plain.reading == Preprocessing(1, (8, 8), background=(0, 0, 0), mean=(0.3,), std=(0.4,))
    assert (whole.temperature, whole.thresholds, whole.licence) == (1.5, (0.5, 0.0), "bsd-3-clause")
    how = {"fit": "crop", "crop": 0.875, "interpolation": "bilinear", "background": (9, 9, 255)}
    assert whole.reading == Preprocessing(1, (8, 8), mean=(0.3,), std=(0.4,), **how)
    for name, values in FINE.items():
        for value in values:
            checked(parse(with_field(name, value)))


def test_each_damage_is_one_message_that_names_the_field():
    for kind, text in DAMAGED.items():
        with pytest.raises(StateError) as raised:
            checked(parse(text))
        message = str(raised.value)
        assert len(message.encode()) < 250, kind
        assert "\n" not in message, kind
        if kind.startswith(("without", "twice")):
            assert kind.split("-")[1] in message, kind


def test_each_command_ends_with_status_2_and_one_line(run):
    commands = itertools.cycle((["evaluate", run / "set.npz"], ["predict", run / "image.png"], ["explain"]))
    for (kind, text), (command, *words) in zip(DAMAGED.items(), commands, strict=False):
        folder = stored(run, text)
        result = CliRunner().invoke(main, [command, str(folder), *map(str, words)])
        assert (result.exit_code, result.stdout) == (2, ""), kind
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: {folder}/model.safetensors: its description of the model is damaged: "), kind


def test_fields_with_their_default_values_are_left_out_and_others_come_back(run, tmp_path):
    description, state = load_run(run / "run")
    assert set(text_of(model_bytes(state, description))) == DESCRIPTION.keys()
    how = Preprocessing(1, (8, 8), background=(0, 9, 8), mean=description.mean, std=description.std)
    changed = replace(description, preprocessing=how, temperature=2.0, thresholds=(0.25, 1.0))
    changed = replace(changed, licence="mit", tta="flip")
    content = model_bytes(state, changed)
    assert set(text_of(content)) == DESCRIPTION.keys() | OPTIONAL.keys()
    (tmp_path / "model.safetensors").write_bytes(content)
    assert load_run(tmp_path)[0] == changed


def test_a_network_of_terabytes_is_refused_by_the_weights_and_never_built(run):
    for name, value in (("channels", 60_000), ("model", "vgg16"), ("classes", [str(k) for k in range(100_000)])):
        folder = stored(run, json.dumps(DESCRIPTION | {name: value, "mean": [0.3] * 60_000, "std": [0.4] * 60_000}))
        if name != "channels":
            folder = stored(run, json.dumps(DESCRIPTION | {name: value}))
        with pytest.raises(StateError, match=r"do not fit|too small|images of"):
            load_net(folder)
    large = DESCRIPTION | {"model": "lenet5", "size": [8000, 8000]}
    with pytest.raises(StateError, match="do not fit lenet5"):
        load_net(stored(run, json.dumps(large)))


def test_what_could_not_be_read_again_is_not_trained(run):
    data = foveal.data.load(run / "set.npz")
    for change, words in (
        ({"classes": ("a", "\ud800")}, "surrogate"),
        ({"classes": ("a", "a")}, "twice"),
        ({"classes": ("a", "n" * (MAX_NAME + 1))}, "letters"),
        ({"std": (0.0,)}, "std is 0"),
        ({"mean": (float("nan"),)}, "mean"),
    ):
        with pytest.raises(FovealError, match=words):
            train(replace(data, **change), epochs=1, batch_size=8, quiet=True)


def test_a_class_without_a_text_is_refused_from_a_file_too(tmp_path):
    x, y = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    data = from_arrays("set", x, y, x, y, classes=["a", "\ud800"])
    with pytest.raises(DataError, match="surrogate"):
        train(data, epochs=1, batch_size=4, quiet=True)


@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 1), ("F8_E8M0", 1), ("BOOL", 1), ("C64", 8)])
def test_weights_of_a_type_that_is_not_read(tmp_path, dtype, size):
    header = {"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]}}
    head = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(4 * size))
    with pytest.raises(StateError, match=f"w is stored as {dtype}, which is not read"):
        load_run(tmp_path)


@pytest.mark.parametrize("shape", [[1] * 100, [0, 2**62], [0, 2**63]])
def test_weights_of_a_shape_that_no_array_has(tmp_path, shape):
    size = 4 * int(np.prod(shape[:2]))
    head = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(size))
    with pytest.raises(StateError, match="w cannot be read"):
        load_run(tmp_path)


def test_a_name_that_no_file_can_have():
    with pytest.raises(DataError, match="not a run"):
        load_run("n" * 5000)
