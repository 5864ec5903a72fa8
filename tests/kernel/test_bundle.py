"""Kernels that are carried to another machine: only what its user signed is taken over, whole and for the same CPU."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import foveal
from foveal import cli, ops
from foveal.errors import DataError
from foveal.kernel import bundle, cache, runtime, target
from foveal.kernel import compile as kernels

x = np.ones(9, np.float32)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Go to a machine of that name, with a cache and a configuration of its own."""
    runtime.run()

    def go(name):
        monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / name / "cache"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / name / "config"))
        monkeypatch.setattr(kernels, "_loaded", {})

    go("first")
    return go


def run():
    """(kernels compiled, kernels found on disk) of a small program."""
    kernels._loaded.clear()
    record = foveal.compile(lambda x: ops.exp(x) + ops.sum(x), threads=1).program(x).record
    return record.compiled, record.from_disk


@pytest.fixture
def exported(machine, tmp_path):
    """A file of the first machine's kernels, and a second machine."""
    run()
    bundle.export(tmp_path / "kernels")
    machine("second")
    return tmp_path / "kernels"


def command(*words):
    ended = CliRunner().invoke(cli.main, ["cache", *map(str, words)])
    return ended.exit_code, " ".join(ended.output.split())


def test_a_twin_compiles_nothing(machine, tmp_path):
    compiled, _ = run()
    with target.assume(target.SSE):
        run()
    file, key = tmp_path / "kernels", tmp_path / "first/config/foveal/cache.key"
    assert "(none" in command("info")[1]
    status, said = command("export", file)
    assert (status, f"Wrote {compiled} kernels" in said, str(key) in said) == (0, True, True)
    assert (key.stat().st_mode & 0o777, len(key.read_text())) == (0o600, 64)
    machine("second")
    status, said = command("import", file, "--key", key)
    assert (status, f"Took over {compiled} kernels" in said) == (0, True)
    assert run() == (0, compiled)
    status, said = command("info")
    assert (status, f"{compiled} kernels" in said) == (0, True)
    # the second export is signed with the same key
    machine("first")
    assert command("export", file)[0] == 0
    assert bundle.load(file)[0] == compiled
    assert (command("clear")[0], cache.size()) == (0, (0, 0))


def test_without_the_right_key_nothing_is_taken_over(exported, tmp_path):
    status, said = command("import", exported)
    assert (status, "Error: there is no key" in said, "copy the one" in said) == (2, True, True)
    bundle.make_key()
    status, said = command("import", exported)
    assert (status, "is damaged, or was not signed with the key" in said) == (2, True)
    assert cache.size() == (0, 0)


DAMAGE = {
    "empty": lambda content: b"",
    "another file": lambda content: b"\x7fELF" + content,
    "torn": lambda content: content[: len(content) // 2],
    "the magic alone": lambda content: content[:8],
    "longer": lambda content: content + b"\0",
    "header": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
    "code": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "signature": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "length": lambda content: content[:8] + b"\xff" * 4 + content[12:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused_in_one_message(exported, tmp_path, damage):
    exported.write_bytes(damage(exported.read_bytes()))
    status, said = command("import", exported, "--key", tmp_path / "first/config/foveal/cache.key")
    assert (status, said.count("Error: "), cache.size()) == (2, 1, (0, 0))
    assert "is damaged" in said or "was not written by `foveal cache export`" in said


@pytest.mark.parametrize("what", ["version of Foveal", "llvmlite", "CPU"])
def test_kernels_for_something_else_are_refused(exported, tmp_path, monkeypatch, what):
    here = target.used()
    change = {
        "version of Foveal": (bundle, "imported_digest", lambda: "another"),
        "llvmlite": (bundle.llvmlite, "__version__", "0.0"),
        "CPU": (bundle, "used", lambda: replace(here, name="another")),
    }
    monkeypatch.setattr(*change[what])
    with pytest.raises(DataError, match=f"are for another {what}: .*; here it is"):
        bundle.load(exported, tmp_path / "first/config/foveal/cache.key")
    assert cache.size() == (0, 0)


@pytest.mark.parametrize(
    "header",
    ["[]", "{", "[" * 100_000, {"kernels": {}}, {"kernels": {"a": "b"}}, {"kernels": 5}, {"kernels": {"../a": 0}},
     {"kernels": {"a" * 40: -1, "b" * 40: 1}}, {"kernels": {"a" * 40: 0.5, "b" * 40: -0.5}}],
    ids=range(9),
)  # fmt: skip
def test_a_signed_file_of_another_form_is_refused(machine, tmp_path, header):
    text = header if isinstance(header, str) else json.dumps({"for": bundle.purpose(), **header})
    content = bundle.MAGIC + len(text).to_bytes(4, "little") + text.encode()
    (tmp_path / "file").write_bytes(content + bundle.hmac.digest(bundle.make_key(), content, "sha256"))
    if header == {"kernels": {}}:
        assert bundle.load(tmp_path / "file") == (0, 0)
    else:
        with pytest.raises(DataError, match="is not as `foveal cache export` writes it"):
            bundle.load(tmp_path / "file")
    assert cache.size() == (0, 0)


def spoil(key, how):
    if how == "readable":
        key.chmod(0o644)
    elif how == "folder":
        key.parent.chmod(0o777)
    elif how == "link":
        key.rename(key.with_name("other"))
        key.symlink_to(key.with_name("other"))
    else:
        key.write_text({"short": "ab" * 31, "long": "ab" * 33, "no digits": "xy" * 32, "other": "é" * 32}[how])


@pytest.mark.parametrize("how", ["readable", "folder", "link", "short", "long", "no digits", "other"])
def test_a_key_that_is_not_this_users_alone_signs_nothing(machine, tmp_path, how):
    run()
    bundle.make_key()
    spoil(bundle.key_file(), how)
    status, said = command("export", tmp_path / "kernels")
    assert (status, said.count("Error: "), (tmp_path / "kernels").exists()) == (2, 1, False), said


def test_what_cannot_be_written_is_an_error(machine, exported, tmp_path, monkeypatch):
    key = tmp_path / "first/config/foveal/cache.key"
    monkeypatch.setenv("FOVEAL_CACHE", os.devnull)
    status, said = command("import", exported, "--key", key)
    assert (status, "kernels could not be written to /dev/null" in said) == (2, True)
    status, said = command("export", exported)
    assert (status, "holds no kernels of this version" in said) == (2, True)
    machine("first")
    status, said = command("export", tmp_path / "absent" / "kernels")
    assert (status, said.count("Error: ")) == (2, 1)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_files_are_replaced(machine, tmp_path):
    run()
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    for place in (pipe, "", tmp_path / "absent" / "kernels"):
        status, said = command("export", place)
        assert (status, said.count("Error: "), "give another name" in said) == (2, 1, True), said
    assert pipe.is_fifo()
    # a link stays one
    link.symlink_to(file)
    assert command("export", link)[0] == 0
    assert link.is_symlink()
    assert file.is_file()


def test_of_what_begins_otherwise_nothing_more_is_read(machine, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_BYTES", 1 << 60)
    status, said = command("import", "/dev/zero")
    assert (status, "was not written by `foveal cache export`" in said) == (2, True)


def test_a_file_that_is_too_large_is_not_read(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_BYTES", exported.stat().st_size - 1)
    with pytest.raises(DataError, match="was not written by"):
        bundle.load(exported, tmp_path / "first/config/foveal/cache.key")
