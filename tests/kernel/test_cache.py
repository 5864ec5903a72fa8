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
from foveal.kernel import cache, runtime, sources, target
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
    """An empty cache, and a process that has compiled no kernel yet."""
    # the loop that runs kernels is in the cache as well
    runtime.run()
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
        "cache": kernels.key(kernel(), replace(here, l2=4 * here.l2)),
        "system": kernels.key(kernel(), replace(here, triple="aarch64-unknown-linux-gnu")),
    }
    monkeypatch.setattr(target.llvm, "llvm_version_info", (1, 2, 3))
    found["LLVM"] = kernels.key(kernel(), here)
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "imported_digest", lambda: "another version of the sources")
    found["sources"] = kernels.key(kernel(), here)
    monkeypatch.undo()
    assert kernels.key(kernel(), here) == found["this"]
    assert len(set(found.values())) == len(found), found


def test_the_digest_covers_the_sources_of_kernels_and_operators(tmp_path):
    names = "kernel/lang.py", "ops/conv.py", "peak.py"
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    digest = sources.source_digest
    before = digest(tmp_path)
    for name in names:
        (tmp_path / name).write_text("2")
        changed = digest(tmp_path)
        (tmp_path / name).write_text("1")
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


def own_name(number):
    """The name of a file as a kernel has it."""
    return f"{number:040x}.o"


def fill(folder, *ages):
    folder.mkdir()
    for age in ages:
        path = folder / own_name(age)
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
    assert names(folder) == [own_name(1), own_name(2), "notes.txt"]


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
    old, new = (own_name(number) for number in (1, 2))
    for name in (old, new):
        cache.write(name.removesuffix(".o"), b"code")
    os.utime(folder / old, (1, 1))
    assert cache.read(old.removesuffix(".o")) == b"code"
    os.utime(folder / new, (2, 2))
    cache.trim(60)
    assert names(folder) == [old]


def test_clear_removes_kernels_only(folder):
    fill(folder, 1, 2)
    (folder / f".{own_name(3)}.abcdefgh.tmp").write_bytes(bytes(10))
    others = ["main.o", "notes.txt", "other.tmp", own_name(4).upper(), own_name(5)[1:]]
    for name in others:
        (folder / name).write_bytes(bytes(1000))
    cache.trim(0)
    assert names(folder) == sorted(others)
    for age in (1, 2):
        (folder / own_name(age)).write_bytes(b"")
    assert cache.clear() == 2
    assert names(folder) == sorted(others)


def test_the_place(monkeypatch, tmp_path):
    monkeypatch.delenv("FOVEAL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "foveal"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache" / "foveal"


def test_code_without_a_file_is_not_taken_for_that_of_another_process():
    """A class that exec made belongs to no file: its key is good for this process alone."""
    made = {}
    exec("class Body:\n    name = 'body'\n    def kernel(self, y):\n        y[0] = 1.0\n", made)
    one = kernels.Kernel(made["Body"]().kernel, (kernels.ArraySpec((1,), (1,)),))
    here = kernels.key(one, target.host())
    assert kernels.key(one, target.host()) == here
    sources._outside.clear()
    assert kernels.key(one, target.host()) != here


LOOP = """
import numpy as np
import foveal
from llvmlite import binding as llvm
emitted = []
emit = llvm.TargetMachine.emit_object
llvm.TargetMachine.emit_object = lambda tm, module: emitted.append(1) or emit(tm, module)
assert foveal.compile(lambda x: x + 1.0, threads=2)(np.ones(5, np.float32)).tolist() == [2] * 5
print(len(emitted))
"""


def test_the_loop_that_runs_kernels_is_in_the_cache(folder):
    # a kernel and the loop, then neither, then the loop, whose file is damaged
    for compiled in (2, 0, 1):
        ended = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, timeout=60, check=False)
        assert (ended.stdout, ended.stderr) == (f"{compiled}\n", "")
        for path in folder.glob("*.o"):
            if b"foveal_run" in path.read_bytes() and not compiled:
                path.write_bytes(path.read_bytes()[:-1])
