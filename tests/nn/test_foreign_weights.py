"""States from elsewhere: prefixes, other widths of numbers, what does not fit, and files of other kinds."""

import builtins
import json
import struct
import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from foveal import nn
from foveal.errors import DataError, FovealWarning, StateError
from foveal.nn import models
from foveal.nn.stored import CONVERSIONS, read_file


def net(library=nn):
    return library.Sequential(
        library.Conv2d(2, 4, 3), library.BatchNorm2d(4), library.Flatten(), library.Linear(36, 5), library.PReLU()
    )


def drawn(seed=0, model=None):
    rng = np.random.default_rng(seed)
    state = (model or net()).state_dict()
    return {n: v if v.dtype.kind == "i" else rng.standard_normal(v.shape).astype(np.float32) for n, v in state.items()}


def holds(model, state):
    own = model.state_dict()
    return all(np.array_equal(own[name], value) for name, value in state.items())


PREFIXES = ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "model.backbone.", "model.model."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("as_file", [False, True])
def test_prefixes_are_taken_off_and_said(prefix, as_file, tmp_path):
    model, state = net(), drawn()
    stored = {f"{prefix}{name}": value for name, value in state.items()}
    if as_file:
        save_file(stored, tmp_path / "model.safetensors")
        stored = tmp_path / "model.safetensors"
    with pytest.warns(FovealWarning, match=f"10 of 10 stored names begin with '{prefix}', which"):
        keys = model.load_state_dict(stored)
    assert keys == ([], [])
    assert holds(model, state)


def test_a_prefix_that_only_some_names_have_is_the_way_to_a_match():
    model, state = net(), drawn()
    stored = {f"model.{name}": value for name, value in state.items()} | {"loss.weight": np.ones(5, np.float32)}
    with pytest.warns(FovealWarning, match="of 11 stored names begin with 'model.'"):
        keys = model.load_state_dict(stored, strict=False)
    assert keys == ([], ["loss.weight"])
    assert holds(model, state)
    with pytest.warns(FovealWarning), pytest.raises(StateError, match=r"left over:\s+loss.weight"):
        model.load_state_dict(stored)


def test_names_that_fit_keep_their_prefix():
    class Wrapped(nn.Module):
        def __init__(self):
            self.model = nn.Linear(3, 2)

    wrapped, state = Wrapped(), {"model.weight": np.ones((2, 3), np.float32), "model.bias": np.ones(2, np.float32)}
    assert wrapped.load_state_dict(state) == ([], [])
    with pytest.warns(FovealWarning, match="begin with 'model.'"):
        wrapped.load_state_dict({f"model.{name}": value for name, value in state.items()})
    # the same names with the prefix and without it, both of which match something
    both = {"weight": state["model.weight"], "model.weight": state["model.weight"], "model.bias": state["model.bias"]}
    with pytest.raises(StateError, match=r"hold both model\.weight and weight"):
        nn.Linear(3, 2).load_state_dict(both)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_models_take_prefixes_and_find_the_number_of_classes(prefix, tmp_path):
    source = models.build("small", channels=1, size=(8, 8), classes=7)
    path = tmp_path / "small.safetensors"
    save_file({f"{prefix}{name}": value for name, value in source.state_dict().items()}, path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model, report = models.load("small", path, channels=1, size=(8, 8))
    assert len(said) == bool(prefix)
    assert all("begin with 'module.', which was taken off" in str(w.message) for w in said)
    assert not report.kept
    assert holds(model, source.state_dict())


@pytest.mark.parametrize("width", ["float16", "bfloat16", "float64", "float32"])
def test_pytorchs_own_states_of_every_width(torch, width, tmp_path):
    from safetensors.torch import save_file as save_tensors

    theirs, dtype = net(torch.nn), getattr(torch, width)
    state = {n: v.to(dtype) if v.is_floating_point() else v for n, v in theirs.state_dict().items()}
    want = {n: v.float().numpy() for n, v in state.items()}
    save_tensors(state, tmp_path / "model.safetensors")
    for given in (state, tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        model = net()
        assert model.load_state_dict(given) == ([], [])
        assert holds(model, want)
    x = np.random.default_rng(1).standard_normal((2, 2, 5, 5)).astype(np.float32)
    theirs.load_state_dict(state)
    np.testing.assert_allclose(model.eval()(x), theirs.eval()(torch.tensor(x)).detach().numpy(), atol=1e-5)


def test_bfloat16_needs_no_other_package(tmp_path, monkeypatch):
    values = np.array([0.0, -0.0, 1.0, -3.140625, 2.0**-126, 3e38, np.inf, np.nan], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    head = json.dumps({"w": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + upper.tobytes())
    real = builtins.__import__

    def no_others(name, *rest):
        if name.partition(".")[0] in ("torch", "ml_dtypes"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_others)
    found = read_file(path)[1]["w"]
    want = (upper.astype(np.uint32) << 16).view(np.float32).reshape(2, 4)
    np.testing.assert_array_equal(found.view(np.uint32), want.view(np.uint32))


def test_numbers_beyond_float32_are_refused():
    state = drawn() | {"0.bias": np.array([0, 1e39, 0, 0])}
    model = net()
    before = model.state_dict()
    with pytest.raises(StateError, match=r"state: 0.bias holds numbers beyond 3.4e38"):
        model.load_state_dict(state)
    assert holds(model, before)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "Sequential.load_state_dict: state holds 'text' for '0.bias', it has to be an array of numbers"),
        ({"0.bias": 1}, r"give what it holds, state\['0.bias'\]"),
        (np.ones(4, complex), r"an array complex128\[4\] for '0.bias', it has to be"),
        ([[1], [1, 2]], "it has to be an array of numbers"),
    ],
)
def test_what_is_no_array(value, words):
    with pytest.raises(StateError, match=words):
        net().load_state_dict(drawn() | {"0.bias": value})


def test_a_mismatch_is_a_table_with_the_nearest_names():
    model, state = net(), drawn()
    state["conv.weight"] = state.pop("0.weight")
    state["3.biases"] = state.pop("3.bias")
    state["1.weight"] = np.ones(3, np.float32)
    before = model.state_dict()
    with pytest.raises(StateError) as raised:
        model.load_state_dict(state)
    assert str(raised.value) == (
        "the stored parameters do not fit this Sequential:\n"
        "  of another shape:\n"
        "    1.weight  [3] stored, [4] in the model\n"
        "  missing:\n"
        "    0.weight  [4, 2, 3, 3]; stored is conv.weight\n"
        "    3.bias    [5]; stored is 3.biases\n"
        "  left over:\n"
        "    conv.weight  [4, 2, 3, 3]; the model has 0.weight\n"
        "    3.biases     [5]; the model has 3.bias\n"
        "Build the model that they were stored from, or load what fits with strict=False; arrays of another shape have"
        " to be taken out of the state first"
    )
    assert holds(model, before)


def test_not_strict_is_pytorchs(torch):
    theirs, model = net(torch.nn), net()
    state = theirs.state_dict()
    del state["0.weight"], state["1.num_batches_tracked"]
    state["head.weight"] = torch.ones(3)
    want = net(torch.nn).load_state_dict(state, strict=False)
    missing, unexpected = model.load_state_dict(state, strict=False)
    # PyTorch's own counter is missing only where the state says that it is of a new version.
    assert missing == [name for name in want.missing_keys if not name.endswith("tracked")]
    assert unexpected == want.unexpected_keys == ["head.weight"]
    assert holds(model, {n: v.numpy() for n, v in state.items() if n != "head.weight"})
    assert repr(model.load_state_dict(net().state_dict())) == "all names matched"
    with pytest.raises(StateError, match=r"of another shape:\s+0.bias +\[2\] stored"):
        model.load_state_dict({"0.bias": np.ones(2)}, strict=False)


def test_a_counter_of_batches_may_be_missing_or_left_over():
    state = drawn()
    del state["1.num_batches_tracked"]
    assert net().load_state_dict(state) == ([], [])
    plain = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False))
    given = {"0.weight": np.ones(4), "0.bias": np.ones(4), "0.num_batches_tracked": np.array(3)}
    assert plain.load_state_dict(given) == ([], [])


@pytest.mark.parametrize("end", [end for ends, *_ in CONVERSIONS for end in ends])
def test_files_of_other_kinds_are_refused_with_the_lines_that_convert_them(end, tmp_path):
    path = tmp_path / f"some.v2{end}"
    path.write_bytes(b"PK\3\4 whatever is in it")
    for call in (net().load_state_dict, lambda p: models.load("small", p), lambda p: models.load_weights(net(), p)):
        with pytest.raises(StateError) as raised:
            call(path)
        first, *lines = str(raised.value).split("\n")
        assert "is not read; convert it once" in first
        assert len(lines) == 3
        assert str(tmp_path / "some.v2.safetensors") in lines[2]


def converted(path):
    """What the lines of the error make of a file."""
    with pytest.raises(StateError) as raised:
        net().load_state_dict(path)
    code = "\n".join(line.strip() for line in str(raised.value).split("\n")[1:])
    exec(code, {})
    return path.with_suffix(".safetensors")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_the_lines_convert_a_pytorch_checkpoint(torch, wrap, tmp_path):
    state = net(torch.nn).state_dict()
    state["tied"] = state["3.weight"].T
    torch.save(wrap(state), tmp_path / "model.pth")
    model = net()
    assert model.load_state_dict(converted(tmp_path / "model.pth"), strict=False) == ([], ["tied"])
    del state["tied"]
    assert holds(model, {n: v.numpy() for n, v in state.items()})


def test_the_lines_convert_an_archive_of_arrays(tmp_path):
    state = drawn()
    np.savez(tmp_path / "model.npz", **state)
    model = net()
    assert model.load_state_dict(converted(tmp_path / "model.npz")) == ([], [])
    assert holds(model, state)


def test_a_path_that_is_none():
    with pytest.raises(DataError, match="there is no such file"):
        net().load_state_dict("nothing.pth")
