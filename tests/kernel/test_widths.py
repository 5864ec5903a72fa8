"""Vectors of 4, 8 and 16 lanes: each generates and verifies, whichever this machine has, and is right where it runs."""

import itertools
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import checks
import emit
import pytest

from foveal.build import build, kernels_of
from foveal.errors import KernelError
from foveal.kernel.compile import ArraySpec, Kernel, build_ir
from foveal.kernel.lang import l1, l2, lanes, llc, registers
from foveal.kernel.listing import count, densest_loop, innermost_loops
from foveal.kernel.target import (
    ASSUMED_CACHES,
    AVX2,
    AVX512,
    NEON,
    SSE,
    assume,
    current,
    host,
    planned_caches,
    read_caches,
)
from foveal.ops import OPS, add
from foveal.ops.elementwise import Pointwise

TARGETS = {"NEON": NEON, "SSE": SSE, "AVX2": AVX2, "AVX512": AVX512}
NARROWER = [t for t in (SSE, AVX2) if t.runs_here and t.lanes < host().lanes]
# pointwise operators have one kernel, so that one of them alone is run on all shapes
CASES = [
    pytest.param(op, case, id=f"{name}-{i}")
    for name, op in OPS.items()
    for i, case in enumerate(op.cases)
    if i == 0 or op is add or not isinstance(op, Pointwise)
]
QUICK = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad", "matmul", "max_pool2d", "sum", "exp"]


@pytest.mark.parametrize("target", NARROWER, ids=lambda target: target.name)
@pytest.mark.parametrize(("op", "case"), CASES)
def test_tuned_kernels_are_right_in_narrower_vectors(op, case, target):
    """Its own width is what all other tests run."""
    graph, xs, want = checks.forward(op, case)
    with assume(target):
        if all(kernel.plain for kernel in kernels_of(graph)):
            pytest.skip("LLVM chooses the vectors of plain kernels")
        got = checks.run_native(build(graph, threads=1), xs)
    assert checks.error(got, want) < checks.limit(op)


@pytest.mark.parametrize("shape", [(4, 16), (4, 32), (8, 16), (16, 32)], ids=str)
@pytest.mark.parametrize("name", QUICK)
def test_interpreted_kernels_are_right_at_every_width(name, shape):
    """On this CPU with other vectors: LLVM cuts or joins those that it does not have."""
    op = OPS[name]
    case = min(op.cases, key=lambda case: sum(x.size for x in case.arrays(0)))
    graph, xs, want = checks.forward(op, case)
    width, count = shape
    with assume(replace(host(), lanes=width, registers=count)):
        program = build(graph, threads=1)
        program.arena[:] = 255
        assert checks.error(program.interpret(*xs)[0], want) < checks.limit(op)
        assert checks.error(checks.run_native(program, xs), want) < checks.limit(op)


def test_an_assumed_target_holds_for_the_block_and_for_the_thread():
    seen = []
    with assume(NEON):
        assert (current(), lanes(), registers()) == (NEON, 4, 32)
        with assume(AVX512):
            assert (lanes(), registers()) == (16, 32)
        assert current() is NEON
        other = threading.Thread(target=lambda: seen.append(current()))
        other.start()
        other.join()
    assert [current(), *seen] == [host(), host()]


def test_named_targets_have_fixed_caches_that_kernels_can_ask_for():
    for target in TARGETS.values():
        assert (target.l1, target.l2, target.llc) == (32 << 10, 1 << 20, 32 << 20)
    with assume(replace(NEON, l1=1, l2=2, llc=3)):
        assert (l1(), l2(), llc()) == (1, 2, 3)


@pytest.mark.parametrize("cache", ["l1", "l2", "llc"])
def test_code_for_other_caches_is_other_code(cache):
    assert replace(AVX2, **{cache: getattr(AVX2, cache) * 4}).identity != AVX2.identity


def cache_folder(folder, *caches):
    """A folder as Linux describes the caches of a processor in: (level, type, size) of each."""
    for i, cache in enumerate(caches):
        entry = folder / f"index{i}"
        entry.mkdir()
        for name, text in zip(("level", "type", "size"), cache, strict=True):
            (entry / name).write_text(f"{text}\n")
    return folder


FIRST = (1, "Data", "48K"), (1, "Instruction", "64K")


@pytest.mark.parametrize(
    ("caches", "want"),
    [
        ((*FIRST, (2, "Unified", "2048K"), (3, "Unified", "30M")), {"l1": 48 << 10, "l2": 2 << 20, "llc": 30 << 20}),
        ((*FIRST, (2, "Unified", "512K")), {"l1": 48 << 10, "l2": 512 << 10, "llc": 512 << 10}),
        (FIRST, {"l1": 48 << 10}),
        ((), {}),
        (((1, "Data", "unknown"),), {}),
        (((1, "Data", ""),), {}),
        ((("", "Data", "32K"),), {}),
    ],
    ids=["three levels", "two levels", "one level", "none", "no number", "no size", "no level"],
)
def test_caches_are_read_where_linux_describes_them(caches, want, tmp_path):
    assert read_caches(cache_folder(tmp_path, *caches)) == want


def test_caches_that_cannot_be_read_are_the_assumed_ones(tmp_path):
    (tmp_path / "index0").mkdir()
    for folder in (tmp_path, tmp_path / "missing"):
        assert read_caches(folder) == {}
    assert planned_caches({}) == ASSUMED_CACHES


KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("size", "planned"),
    [
        (1, 1),
        (128 * KIB - 1, 64 * KIB),
        (128 * KIB, 256 * KIB),
        (512 * KIB - 1, 256 * KIB),
        (512 * KIB, MIB),
        (MIB, MIB),
        (2 * MIB - 1, MIB),
        (2 * MIB, 4 * MIB),
        (8 * MIB - 1, 4 * MIB),
        (8 * MIB, 16 * MIB),
    ],
)
def test_caches_are_planned_with_by_class(size, planned):
    assert planned_caches({"l2": size}) == {**ASSUMED_CACHES, "l2": planned}


def test_the_last_level_has_the_same_classes():
    assert [planned_caches({"llc": n * MIB})["llc"] // MIB for n in (15, 16, 63, 64, 256)] == [8, 32, 32, 128, 512]


def test_code_for_another_cpu_is_not_run():
    foreign = NEON if current().triple.startswith("x86_64") else SSE
    graph, *_ = checks.forward(OPS["relu"], OPS["relu"].cases[0])
    for target in (foreign, replace(host(), features=host().features + ",+not_here")):
        with assume(target), pytest.raises(KernelError, match=f"kernels for {target.name}"):
            build(graph, threads=1)


# What the code looks like. FMA: one multiply-add per lane; on x86 the scalar is broadcast from memory, alone or by the
# instruction itself; NEON multiplies by one element of a vector.

FMA = {
    "NEON": r"fmla\tv\d+\.4s, v\d+\.4s, v\d+\.(4s|s\[\d\])",
    "AVX2": r"vfmadd\d+ps\t.*%ymm",
    "AVX512": r"vfmadd\d+ps\t.*%zmm",
}
BROADCAST = {
    "NEON": r"fmla\tv\d+\.4s, v\d+\.4s, v\d+\.s\[\d\]|ld1r\t|dup\tv",
    "AVX2": r"vbroadcastss\t\S*\(.*%ymm",
    "AVX512": r"vbroadcastss\t\S*\(.*%zmm|\{1to16\}",
}
ADD = {"NEON": r"fadd\tv\d+\.4s", "AVX2": r"vaddps\t.*%ymm", "AVX512": r"vaddps\t.*%zmm"}
# a vector register stored to, or read back from, the stack
SPILL = r"\tv?mov[au]ps\t(%[xyz]mm\d+, -?\d*\(%rsp|-?\d*\(%rsp)|\t(st|ld)[pr]\tq.*\[sp"
PRODUCTS = [
    "convolution",
    "strided convolution",
    "convolution of 3 channels",
    "1x1 convolution",
    "minimal filtering",
    "weight gradient",
    "weight gradient by minimal filtering",
    "matmul",
]


@pytest.fixture(scope="module")
def listings():
    """Target -> graph -> its kernels' assembly. In another process: what LLVM cannot emit ends it."""
    command = [sys.executable, emit.__file__, *TARGETS]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(emit.__file__).parent)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def busiest_loop(texts, pattern):
    """Of all innermost loops the one in which most instructions match."""
    loops = [loop for text in texts for loop in innermost_loops(text)]
    return max(loops, key=lambda loop: count(pattern, loop))


@pytest.mark.parametrize("graph", PRODUCTS)
@pytest.mark.parametrize("name", FMA)
def test_products_are_multiply_adds_of_full_vectors(name, graph, listings):
    loop = densest_loop(listings[name][graph], FMA[name])
    assert count(BROADCAST[name], loop) >= 6
    # 12 multiply-adds of AVX2's tile take 6 broadcasts, 2 loads and the loop's own counting
    assert count(FMA[name], loop) > len(loop) * 0.4


def without_spills():
    """Targets and graphs. On NEON, code from here lacks the inline assembly that few channels need."""
    short = pytest.mark.xfail(strict=True, reason="16 registers are one too few for its addresses")
    for name, graph in itertools.product(FMA, PRODUCTS):
        if graph != "convolution of 3 channels":
            yield name, graph
        elif name != "NEON":
            yield pytest.param(name, graph, marks=short if name == "AVX2" else ())


@pytest.mark.parametrize(("name", "graph"), [*without_spills()])
def test_accumulators_stay_in_registers(name, graph, listings):
    loop = densest_loop(listings[name][graph], FMA[name])
    assert [line for line in loop if re.search(SPILL, line)] == []


@pytest.mark.parametrize("name", FMA)
def test_pointwise_and_reduction_use_full_vectors(name, listings):
    for graph in ("pointwise", "reduction"):
        pattern = FMA[name]
        if graph == "pointwise":  # what waits for memory takes 32 bytes at a time: streaming_lanes
            pattern = pattern.replace("%zmm", "%ymm")
        loop = busiest_loop(listings[name][graph], pattern)
        assert count(pattern, loop) > 0
        assert len(loop) < 30, "one short loop"
    assert count(ADD[name], busiest_loop(listings[name]["reduction"], ADD[name])) > 0


@pytest.mark.parametrize("target", [host(), NEON, SSE], ids=["host", "NEON", "SSE"])
def test_inline_assembly_is_for_this_architecture_only(target):
    def body(y, x):
        y[0] = x.opaque()[0]

    spec = ArraySpec((1,), (1,))
    text = build_ir(Kernel(body, (spec, spec)), target, "k")
    assert ("call ptr asm" in text) == target.native
    assert target.native == (target.triple.split("-")[0] == host().triple.split("-")[0])
