"""Machine code on disk: shared safely, never trusted unless whole, and missed only where the code would differ."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import foveal
from foveal import ops
from foveal.kernel import cache, target
from foveal.kernel import compile as kernels
from foveal.ops.op import OPS

SCRIPT = """
import hashlib, sys
import numpy as np
import foveal
from foveal import nn, optim
from foveal.kernel.compile import statistics
nn.seed(0)
model = nn.models.build("small", channels=1, size=(8, 8), classes=3)
step = foveal.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.01), threads=1)
x, labels = np.random.default_rng(0).random((4, 1, 8, 8), np.float32), np.arange(4) % 3
sys.stdin.readline()
step(x, labels), step(x, labels)
state = b"".join(v.tobytes() for v in model.state_dict().values())
print(hashlib.sha256(state).hexdigest(), statistics.compiled, statistics.from_disk)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and a process that has compiled nothing yet."""
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "_loaded", {})
    return tmp_path / "cache"


def double(x):
    return ops.exp(x) + x * 2.0


def run():
    """(result, kernels compiled, kernels found on disk) of a small program, as a fresh process would see it."""
    kernels._loaded.clear()
    program = foveal.compile(double, threads=1).program(np.ones(9, np.float32))
    return program.run(np.ones(9, np.float32))[0].tobytes(), program.record.compiled, program.record.from_disk


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"FOVEAL_CACHE": str(folder)},
    )


def test_two_processes_at_once_share_an_empty_cache(folder):
    both = [start(folder) for _ in range(2)]
    for process in both:  # both have imported everything before either compiles
        process.stdin.write("\n")
        process.stdin.flush()
    first, second = (process.communicate(timeout=120)[0].split() for process in both)
    third = start(folder).communicate("\n", timeout=120)[0].split()
    assert first[0] == second[0] == third[0]
    assert int(first[1]) + int(second[1]) > 0
    assert third[1] == "0"
    assert not list(folder.glob("*.tmp"))


def test_the_second_run_compiles_nothing(folder):
    result, compiled, from_disk = run()
    assert (compiled > 0, from_disk) == (True, 0)
    assert run() == (result, 0, compiled)
    assert cache.size() == (compiled, sum(path.stat().st_size for path in folder.iterdir()))


DAMAGE = {
    "empty": lambda content: b"",
    "torn": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "garbage": lambda content: os.urandom(len(content)),
    "another magic": lambda content: b"foveal00" + content[8:],
    "one bit": lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_is_not_whole_is_compiled_and_written_again(folder, damage):
    result, compiled, _ = run()
    for path in folder.glob("*.o"):
        path.write_bytes(damage(path.read_bytes()))
    assert run() == (result, compiled, 0)
    assert run() == (result, 0, compiled)


def test_a_folder_in_the_way_of_a_file_is_no_error(folder):
    result, compiled, _ = run()
    for path in folder.glob("*.o"):
        path.unlink()
        path.mkdir()
    assert run() == (result, compiled, 0)


def kernel(**changes):
    spec = kernels.ArraySpec((9,), (1,))
    return replace(kernels.Kernel(OPS["relu"].kernel, (spec, spec)), **changes)


def test_the_key_covers_all_that_decides_the_code(monkeypatch):
    here = target.host()
    other = kernels.ArraySpec((8,), (1,))
    found = {
        "this": kernels.key(kernel(), here),
        "shape": kernels.key(kernel(arrays=(other, other)), here),
        "strides": kernels.key(kernel(arrays=(kernels.ArraySpec((9,), (2,)),) * 2), here),
        "dtype": kernels.key(kernel(arrays=(kernels.ArraySpec((9,), (1,), "int32"),) * 2), here),
        "constants": kernels.key(kernel(static=(("a", 1),)), here),
        "other constants": kernels.key(kernel(static=(("a", 2),)), here),
        "plain": kernels.key(kernel(plain=True), here),
        "operator of the same family": kernels.key(kernel(body=OPS["exp"].kernel), here),
        "CPU": kernels.key(kernel(), replace(here, name="another")),
        "features": kernels.key(kernel(), replace(here, features=here.features + ",+other")),
        "lanes": kernels.key(kernel(), replace(here, lanes=2 * here.lanes)),
        "registers": kernels.key(kernel(), replace(here, registers=2 * here.registers)),
        "system": kernels.key(kernel(), replace(here, triple="aarch64-unknown-linux-gnu")),
    }
    monkeypatch.setattr(target.llvm, "llvm_version_info", (1, 2, 3))
    found["LLVM"] = kernels.key(kernel(), here)
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "source_digest", lambda package: "another version of the sources")
    found["sources"] = kernels.key(kernel(), here)
    monkeypatch.undo()
    assert kernels.key(kernel(), here) == found["this"]
    assert len(set(found.values())) == len(found), found


def test_the_digest_covers_the_sources_of_kernels_and_operators(tmp_path):
    for name in ("kernel/lang.py", "ops/conv.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    digest = kernels.source_digest.__wrapped__
    before = digest(tmp_path)
    (tmp_path / "ops/conv.py").write_text("2")
    changed = digest(tmp_path)
    (tmp_path / "ops/conv.py").write_text("1")
    assert digest(tmp_path) == before != changed


def test_a_place_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    """A file where the folder should be: the same for every user, root too."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(kernels, "_loaded", {})
    result, compiled, _ = run()
    assert run() == (result, compiled, 0)
    assert cache.size() == (0, 0)
    assert cache.clear() == 0
    assert not cache.writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_read(folder):
    result, compiled, _ = run()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert not cache.writable()
    assert run() == (result, 0, compiled)
    assert foveal.compile(lambda x: x * 3.0, threads=1)(np.ones(5, np.float32)).tolist() == [3.0] * 5
    folder.chmod(stat.S_IRWXU)


def fill(folder, *ages):
    folder.mkdir()
    for age in ages:
        path = folder / f"{age}.o"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_trim_removes_what_was_used_least_recently(folder):
    fill(folder, 5, 1, 3, 2, 4)
    (folder / "notes.txt").write_bytes(bytes(1000))
    cache.trim(500)
    assert len(names(folder)) == 6
    cache.trim(250)
    assert names(folder) == ["1.o", "2.o", "notes.txt"]


def test_the_folder_is_looked_through_at_first_and_after_much_writing(folder, monkeypatch):
    looks = []
    monkeypatch.setattr(cache, "trim", lambda: looks.append(1))
    cache.stay_small()
    assert not looks  # nothing was written
    cache.write("first", b"code")
    cache.stay_small()
    assert len(looks) == 1
    cache.write("second", b"code")
    cache.stay_small()
    assert len(looks) == 1
    cache.write("third", bytes(cache.SLACK_BYTES))
    cache.stay_small()
    assert len(looks) == 2


def test_reading_counts_as_use(folder):
    cache.write("old", b"code")
    cache.write("new", b"code")
    os.utime(folder / "old.o", (1, 1))
    assert cache.read("old") == b"code"
    os.utime(folder / "new.o", (2, 2))
    cache.trim(50)
    assert names(folder) == ["old.o"]


def test_clear_removes_kernels_only(folder):
    fill(folder, 1, 2)
    (folder / "left.tmp").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    assert cache.clear() == 3
    assert names(folder) == ["notes.txt"]


def test_the_place(monkeypatch, tmp_path):
    monkeypatch.delenv("FOVEAL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "foveal"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache" / "foveal"
