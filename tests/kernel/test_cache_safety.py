"""Nobody but this user has a hand in the machine code that this process runs: the threat model of kernel/cache.py."""

import grp
import importlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import foveal
from foveal import cli, ops
from foveal.errors import KernelError
from foveal.kernel import cache, runtime, target
from foveal.kernel import compile as kernels
from foveal.ops.op import OPS

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
STRANGER = 65534


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and a process that has compiled no kernel and said nothing yet."""
    # the loop that runs kernels is in the cache as well
    runtime.run()
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "_loaded", {})
    monkeypatch.setattr(cache, "_reported", set())
    monkeypatch.setattr(cache, "_reached_safely", set())
    return tmp_path / "cache"


def run():
    """(kernels compiled, kernels found on disk) of a small program, as a fresh process would see it."""
    kernels._loaded.clear()
    program = foveal.compile(lambda x: ops.exp(x) + x * 2.0, threads=1).program(np.ones(9, np.float32))
    np.testing.assert_allclose(program.run(np.ones(9, np.float32))[0], np.exp(1) + 2, rtol=1e-6)
    return program.record.compiled, program.record.from_disk


def snapshot(folder):
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o722])
def test_a_folder_that_others_may_write_to_is_left_alone_and_named_once(folder, mode, capsys):
    compiled, _ = run()
    folder.chmod(mode)
    before = snapshot(folder)
    assert run() == run() == (compiled, 0)
    assert cache.clear() == 0
    cache.trim(0)
    assert snapshot(folder) == before
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert f"others may write to {folder} (mode {mode:o}" in said
    assert "set FOVEAL_CACHE to a folder of your own" in said
    folder.chmod(0o755)
    assert run() == (0, compiled)


def test_doctor_names_what_is_wrong_with_the_folder(folder):
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    words = " ".join(CliRunner().invoke(cli.main, ["doctor"]).output.split())
    assert f"The kernel cache is not used: others may write to {folder} (mode 777; chmod go-w would change" in words
    assert "a convolution compiled and ran right" in words


def test_a_folder_that_others_may_exchange_is_left_alone(folder, capsys):
    compiled, _ = run()
    folder.parent.chmod(0o777)
    cache._reached_safely.clear()
    assert run() == (compiled, 0)
    assert f"others may write to {folder.parent}" in capsys.readouterr().err
    # with the sticky bit, names in it can be changed by their owners alone
    folder.parent.chmod(0o1777)
    assert run() == (0, compiled)


def test_the_private_group_of_a_user_may_write_above_the_folder(folder, monkeypatch):
    """Where each user has a group of their own, new folders may be open to it; nobody else is in it."""
    compiled, _ = run()
    folder.parent.chmod(0o775)
    owner = pwd.getpwuid(os.geteuid())
    groups = {
        (owner.pw_name, owner.pw_gid, ()): (0, compiled),
        (owner.pw_name, owner.pw_gid, (owner.pw_name,)): (0, compiled),
        (owner.pw_name, owner.pw_gid, ("another",)): (compiled, 0),
        ("users", owner.pw_gid, ()): (compiled, 0),
        (owner.pw_name, owner.pw_gid + 1, ()): (compiled, 0),
    }
    for (name, number, members), expected in groups.items():
        group = grp.struct_group((name, "x", number, list(members)))
        monkeypatch.setattr(grp, "getgrgid", lambda gid, group=group: group)
        cache._reached_safely.clear()
        assert run() == expected
    folder.parent.chmod(0o700)


def test_another_user_uses_none_of_it(folder, monkeypatch, capsys):
    compiled, _ = run()
    me = os.geteuid()
    monkeypatch.setattr(cache, "user", lambda: me + 1)
    before = snapshot(folder)
    assert run() == (compiled, 0)
    assert snapshot(folder) == before
    assert f"belongs to another user ({me})" in capsys.readouterr().err


@AS_ROOT
def test_root_uses_no_folder_and_no_file_of_another_user(folder, capsys):
    compiled, _ = run()
    for path in folder.iterdir():
        os.chown(path, STRANGER, STRANGER)
    assert run() == (compiled, 0)
    assert run() == (0, compiled)
    os.chown(folder, STRANGER, STRANGER)
    assert run() == (compiled, 0)
    assert f"{folder} belongs to another user ({STRANGER})" in capsys.readouterr().err


@AS_ROOT
def test_a_link_of_another_user_is_not_followed_to_the_folder(folder, tmp_path, monkeypatch):
    compiled, _ = run()
    link = tmp_path / "link"
    link.symlink_to(folder)
    monkeypatch.setenv("FOVEAL_CACHE", str(link))
    assert run() == (0, compiled)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    cache._reached_safely.clear()
    assert run() == (compiled, 0)


def test_a_link_that_leads_back_to_itself_is_said_and_not_used(tmp_path, monkeypatch, capsys):
    link = tmp_path / "link"
    link.symlink_to(link)
    monkeypatch.setenv("FOVEAL_CACHE", str(link))
    assert cache.load("name") is None
    assert f"{link} is not used, so kernels are compiled again: {link}: Too many levels" in capsys.readouterr().err


def replaced_by(path, what):
    """Put something else in the place of a kernel's file, which is kept beside it."""
    kept = path.with_suffix(".kept")
    path.rename(kept)
    if what == "link":
        path.symlink_to(kept)
    elif what == "endless device":
        path.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "huge":
        shutil.copy(kept, path)
        os.truncate(path, cache.MAX_FILE_BYTES + 1)
    else:
        shutil.copy(kept, path)
        path.chmod(0o666 if what == "writable by all" else 0o620)


WHATS = ["link", "endless device", "pipe", "folder", "huge", "writable by all", "writable by the group"]


@pytest.mark.parametrize("what", WHATS)
def test_only_regular_files_that_nobody_else_can_write_are_opened(folder, what):
    compiled, _ = run()
    for path in list(folder.glob("*.o")):
        replaced_by(path, what)
    assert run() == (compiled, 0)
    # but for a folder in the way, the kernel is stored again
    assert run() == ((compiled, 0) if what == "folder" else (0, compiled))


BODIES = {
    "another kernel's": lambda body, other: other,
    "none": lambda body, other: b"",
    "noise": lambda body, other: os.urandom(len(body)),
    "all but a byte": lambda body, other: body[:-1],
    "half": lambda body, other: body[: len(body) // 2],
    "its symbol and no more": lambda body, other: body[body.index(b"k") :],
}


@pytest.mark.parametrize("change", BODIES.values(), ids=BODIES)
def test_a_right_checksum_makes_no_kernel_of_another_body(folder, change):
    compiled, _ = run()
    foveal.compile(ops.sigmoid, threads=1)(np.ones(7, np.float32))
    bodies = {path.stem: cache.read(path.stem) for path in folder.glob("*.o")}
    for key, other in zip(bodies, [*list(bodies)[1:], next(iter(bodies))], strict=True):
        cache.write(key, change(bodies[key], bodies[other]))
    assert run() == (compiled, 0)
    assert run() == (0, compiled)


def test_a_file_under_another_kernels_name_is_none(folder):
    cache.write("a" * 40, b"code")
    (folder / f"{'a' * 40}.o").rename(folder / f"{'b' * 40}.o")
    assert cache.read("b" * 40) is None


def test_no_address_is_given_of_code_that_lacks_the_kernel(folder):
    run()
    (body, *_) = (cache.read(path.stem) for path in folder.glob("*.o"))
    with pytest.raises(KernelError, match="object code lacks kother"):
        kernels.LoadedCode({"kother": body})


def test_new_folders_are_for_this_user_alone(folder, monkeypatch):
    place = folder / "a" / "b"
    monkeypatch.setenv("FOVEAL_CACHE", str(place))
    before = os.umask(0)
    try:
        compiled, _ = run()
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "a", place)] == [0o700] * 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    assert run() == (0, compiled)


def test_what_killed_processes_left_is_removed(folder):
    cache.write("a" * 40, b"code")
    old, new = (folder / f".{'a' * 40}.o.{name}.tmp" for name in ("12345678", "abcdefgh"))
    for path in (old, new):
        path.write_bytes(b"part")
    long_ago = time.time() - 2 * cache.STALE_SECONDS
    os.utime(old, (long_ago, long_ago))
    cache.trim()
    assert (old.exists(), new.exists()) == (False, True)


def test_every_value_of_the_variable_has_one_meaning(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    meanings = {
        "": tmp_path / "home" / ".cache" / "foveal",
        "kept": tmp_path / "kept",
        "~/mine": tmp_path / "home" / "mine",
        str(tmp_path / "x" / ".." / "y"): tmp_path / "y",
        os.devnull: Path(os.devnull),
    }
    for value, place in meanings.items():
        cache.from_root.cache_clear()
        monkeypatch.setenv("FOVEAL_CACHE", value)
        assert cache.directory() == place
        assert cache.problem() is None or place == cache.OFF
    # a relative one stays where it was when the process has gone elsewhere
    monkeypatch.setenv("FOVEAL_CACHE", "kept")
    cache.directory()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cache.directory() == tmp_path / "kept"
    monkeypatch.setenv("FOVEAL_CACHE", os.devnull)
    assert run() == (run()[0], 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["file", "file/below", "~nobody-of-this-name/cache", "n" * 300])
def test_a_place_that_is_no_folder_is_named_once(folder, monkeypatch, tmp_path, capsys, value):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("FOVEAL_CACHE", value if value[0] == "~" else str(tmp_path / value))
    assert run() == (run()[0], 0)
    assert capsys.readouterr().err.count("is not used") == 1
    assert (cache.read("a" * 40), cache.size(), cache.clear(), cache.writable()) == (None, (0, 0), 0, False)
    assert (tmp_path / "file").read_text() == "mine"


SCRIPT = """
import sys
from pathlib import Path
import foveal.ops
from foveal.kernel import compile as kernels, target
# nothing of what decides code is left to be imported later; the loop of native_loop.py has a key of its own, the others
# list or count what was decided
rooms = [p for room in ("kernel", "ops") for p in Path("foveal", room).rglob("*.py")]
names = {".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in rooms}
later = names - sys.modules.keys()
others = "bundle", "counting", "listing", "native_loop", "runtime", "worker"
assert later <= {"foveal.kernel." + name for name in others}, later
spec = kernels.ArraySpec((9,), (1,))
def key():
    return kernels.key(kernels.Kernel(foveal.ops.OPS["relu"].kernel, (spec, spec)), target.host())
assert Path(foveal.__file__).parents[1] == Path.cwd()
path = Path("foveal/ops/activation.py")
if sys.argv[1] == "upgrade":
    path.write_text(path.read_text() + "# another version")
print(key())
"""


def test_code_in_memory_is_not_stored_under_the_name_of_sources_that_came_later(tmp_path):
    """An upgrade after the import and before the first compilation."""
    shutil.copytree(Path(foveal.__file__).parent, tmp_path / "foveal")

    def key(what):
        command = [sys.executable, "-c", SCRIPT, what]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
        return ended.stdout

    spec = kernels.ArraySpec((9,), (1,))
    before = kernels.key(kernels.Kernel(OPS["relu"].kernel, (spec, spec)), target.host())
    during, after = key("upgrade"), key("nothing")
    assert before == during.strip() != after.strip()


OPERATOR = """
from foveal.ops.op import Operator
class Fill(Operator):
    name = "fill"
    def kernel(self, y):
        y[0] = 1.0
"""


def test_a_module_outside_is_taken_as_it_was_imported_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "operator_of_mine.py"

    def key():
        kernel = kernels.Kernel(module.Fill.kernel, (kernels.ArraySpec((1,), (1,)),))
        return kernels.key(kernel, target.host())

    path.write_text(OPERATOR)
    module = importlib.import_module("operator_of_mine")
    path.write_text(OPERATOR.replace("1.0", "2.0 + 3.0"))
    changed = key()
    importlib.reload(module)
    reloaded = key()
    path.write_text(OPERATOR)
    os.utime(path, (1, 1))
    importlib.reload(module)
    assert key() == changed != reloaded
