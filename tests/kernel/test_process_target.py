"""FOVEAL_TARGET: narrower vectors of this CPU for a whole process, and nothing of wider ones in what it runs."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import emit
import pytest
from click.testing import CliRunner
from llvmlite import binding as llvm

from foveal import cli, peak
from foveal.build import kernels_of
from foveal.cli.doctor import vectors
from foveal.errors import FovealError
from foveal.kernel import llvm_thread, runtime
from foveal.kernel import target as targets
from foveal.kernel.compile import ArraySpec, Kernel, assembly, key
from foveal.trace import trace

# what these CPUs have beside what their names say to LLVM, which does not matter here
FEATURES = "+sse2,+avx,+avx2,+fma,+f16c,+vaes,+vpclmulqdq"
WIDE = f"{FEATURES},+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx10.1,+avx10.2"
TRIPLE = "x86_64-unknown-linux-gnu"
CPUS = {
    "sapphirerapids": targets.Target(TRIPLE, "sapphirerapids", f"{WIDE},-xop", 16, 32, l2=4 << 20),
    "znver5": targets.Target(TRIPLE, "znver5", f"{WIDE},-xop", 16, 32),
    "znver3": targets.Target(TRIPLE, "znver3", f"{FEATURES},-avx512f", 8, 16),
}
NARROWED = [("sapphirerapids", "avx2"), ("sapphirerapids", "sse"), ("znver5", "avx2"), ("znver3", "sse")]
# what only wider vectors have: registers, and of AVX-512 the upper half of all and the masks; of AVX its instructions
WIDER = {"avx2": r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]\b", "sse": r"%[yz]mm|\tv[a-z]"}
REGISTERS = {"avx2": "%ymm", "sse": "%xmm"}

x86 = pytest.mark.skipif(targets.architecture(targets.host().triple) != "x86_64", reason="LLVM emits for x86 here")


def of_the_peak(target):
    """The kernels that measure the peak and the rate of copying."""
    chains = target.registers * 3 // 4
    values = ArraySpec((8, chains * target.lanes), (chains * target.lanes, 1))
    arguments = (values, values, ArraySpec((2,), (1,)))
    yield Kernel(peak.multiply_add_chains, arguments, (("chains", chains), ("steps", 10)))
    for streamed in (False, True):
        yield Kernel(peak.copies, (ArraySpec((2, 4096), (4096, 1), streamed=streamed),) * 2, (("times", 1),))


def of_operators(target):
    """Tuned and plain kernels."""
    for name in ("convolution", "matmul", "pointwise", "reduction"):
        function, *types = emit.GRAPHS[name]
        for tuned in (True, False):
            yield from kernels_of(trace(function, *types), tuned)


def native_loop(target):
    def listing():
        return str(targets.machine(target).emit_assembly(llvm.parse_assembly(runtime.source()[0])))

    return llvm_thread.run(listing)


@x86
@pytest.mark.parametrize(("cpu", "vectors"), NARROWED)
def test_nothing_of_wider_vectors_is_emitted(cpu, vectors):
    target = targets.narrowed(CPUS[cpu], vectors)
    with targets.assume(target):
        listings = [assembly(kernel, target) for of in (of_the_peak, of_operators) for kernel in of(target)]
    assert all(REGISTERS[vectors] in listing for listing in listings)
    for listing in (*listings, native_loop(target)):
        assert re.findall(WIDER[vectors], listing) == []


@x86
def test_narrower_vectors_of_a_cpu():
    cpu = CPUS["sapphirerapids"]
    assert list(targets.choices(cpu)) == ["avx512", "avx2", "sse"]
    assert list(targets.choices(CPUS["znver3"])) == ["avx2", "sse"]
    shapes = {
        name: (one.lanes, one.registers) for name in targets.choices(cpu) for one in [targets.narrowed(cpu, name)]
    }
    assert shapes == {"avx512": (16, 32), "avx2": (8, 16), "sse": (4, 16)}
    for name in ("", "host", "avx512"):
        assert targets.narrowed(cpu, name) == cpu
    narrow = targets.narrowed(cpu, "avx2")
    # the same machine in all else
    assert narrow == replace(cpu, features=narrow.features, lanes=8, registers=16)
    assert [one.vectors for one in (cpu, narrow, targets.narrowed(cpu, "sse"), targets.NEON)] == [
        *("avx512", "avx2", "sse", "neon")
    ]


def test_each_target_has_its_own_place_in_the_cache():
    spec = ArraySpec((8,), (1,))
    kernel = Kernel(peak.copies, (spec, spec))
    found = [targets.narrowed(CPUS["sapphirerapids"], name) for name in ("avx512", "avx2", "sse")]
    assert len({one.identity for one in found}) == len({key(kernel, one) for one in found}) == 3


@pytest.mark.parametrize("vectors", ["avx3", "AVX2", "neon", "avx2\n", "x" * 100])
def test_what_a_cpu_cannot_run_is_one_error(vectors):
    with pytest.raises(FovealError) as caught:
        targets.narrowed(CPUS["znver3"], vectors)
    said = str(caught.value)
    assert said.startswith(f"FOVEAL_TARGET is {vectors[:40]!r}: ")
    assert ("this CPU, znver3, has no such vectors" if vectors == "neon" else "there is no target of that name") in said
    assert "it can be avx2, sse, host here, or be left out" in said


def run(words, target):
    environment = {**os.environ, "FOVEAL_TARGET": target}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)


NARROWEST = list(targets.choices(targets.host()))[-1]
ABSENT = next(
    name for names in targets.VECTORS.values() for name in names if name not in targets.choices(targets.host())
)


def test_the_command_line_says_what_cannot_run_here():
    ended = run(["-m", "foveal", "doctor"], ABSENT)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"Error: FOVEAL_TARGET is {ABSENT!r}: this CPU, {targets.host().name}, has no such")
    assert ended.stderr.count("\n") == 1


PROGRAM = """
import json, os
import numpy as np
from foveal import nn
from foveal.bench import output
from foveal.bench.timing import Bench
from foveal.cli.doctor import facts
from foveal.kernel import bundle, target
from foveal.train.run_file import versions

lanes = target.current().lanes
# a change after the first use changes nothing
os.environ["FOVEAL_TARGET"] = "none"
net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU()).eval()
assert np.asarray(net(np.ones((1, 3, 8, 8), np.float32))).shape == (1, 20, 6, 6)
output.copy_rate = lambda *_: 0.0
header = output.machine(Bench(1, 1, 1.0))
assert f"{header['target']} (128-bit vectors), 1 thread(s)" in output.headline(header)
assert bundle.purpose()["CPU"] == target.used().identity
print(json.dumps([lanes, facts()["lanes"], versions()["target"], facts()["target"]["used"], header["target"]]))
"""


def test_a_process_is_shaped_for_the_target_and_says_so():
    ended = run(["-c", PROGRAM], NARROWEST)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [4, 4, *[NARROWEST] * 3]


def test_doctor_says_why():
    chosen, widest = (vectors("sse", asked, ["avx2", "sse"]) for asked in ("sse", ""))
    assert chosen == "sse, chosen by FOVEAL_TARGET; FOVEAL_TARGET can be avx2, sse, host"
    assert widest == "sse, the widest vectors of this CPU; FOVEAL_TARGET can be avx2, sse, host"


def test_a_process_has_one_target(monkeypatch):
    """The one that it was first asked for, whatever the variable says later."""
    own = targets.used().vectors
    monkeypatch.setenv("FOVEAL_TARGET", "before")
    targets.use(own, "--target")
    with pytest.raises(FovealError, match=f"--target is {ABSENT!r}: this CPU"):
        targets.use(ABSENT, "--target")
    if own != NARROWEST:
        with pytest.raises(FovealError, match=f"--target is {NARROWEST!r}: this process has kernels for {own}"):
            targets.use(NARROWEST, "--target")
    assert os.environ["FOVEAL_TARGET"] == own


def test_a_benchmark_can_be_of_narrower_vectors():
    ended = run(["-m", "foveal", "bench", "ops", "--list", "--target", NARROWEST], ABSENT)
    assert (ended.returncode, ended.stderr) == (0, "")
    for command in ("models", "infer", "ops", "threads", "memory"):
        result = CliRunner().invoke(cli.main, ["bench", command, "--target", ABSENT])
        assert (result.exit_code, f"Error: --target is {ABSENT!r}: this CPU" in result.stderr) == (2, True)
