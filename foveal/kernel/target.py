"""What the CPU has that kernels are shaped by: lanes per vector, vector registers, caches.

Kernels are shaped for the CPU this process runs on, or for narrower vectors of it, which FOVEAL_TARGET names; unless
another target is assumed, to test other widths and to look at code for other CPUs.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from llvmlite import binding as llvm

from foveal.errors import FovealError
from foveal.kernel import llvm_thread

# float32 elements of a cache line
LINE = 16
# lanes of the vectors that have a store past the cache
STREAMS = (4, 8, 16)

# bytes of the caches that kernels plan with where nothing is known: those of a common server's core
ASSUMED_CACHES = {"l1": 32 << 10, "l2": 1 << 20, "llc": 32 << 20}
CACHE_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
# Linux numbers the caches of a processor from 0; there are four or five
MAX_CACHES = 16
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# the environment variable that names the vectors of this process, and its value for those that the CPU has
VARIABLE = "FOVEAL_TARGET"
HOST = "host"


class Vectors(NamedTuple):
    """One width of vectors that CPUs of an architecture have.

    needs: the features that they take, as LLVM writes them. excluded: the feature that wider ones take first of all, so
    that without it, and what builds on it, no wider vector is left. lanes, registers: those of Target.
    """

    needs: frozenset[str]
    excluded: str
    lanes: int
    registers: int


# by architecture and by what they are called, the widest first; all need no more than the last
VECTORS = {
    "x86_64": {
        "avx512": Vectors(frozenset({"avx512f", "avx512vl"}), "", 16, 32),
        "avx2": Vectors(frozenset({"avx2"}), "avx512f", 8, 16),
        "sse": Vectors(frozenset(), "avx", 4, 16),
    },
    "aarch64": {"neon": Vectors(frozenset(), "", 4, 32)},
}


@dataclass(frozen=True)
class Target:
    """A machine to generate code for.

    triple, name, features: the architecture, the CPU and what it has, as LLVM writes them.
    lanes: float32 values per vector register (16 on AVX-512, 8 on AVX2, 4 on NEON and SSE).
    registers: the vector registers that a kernel may plan with.
    l1, l2, llc: bytes of the first-level data cache, of the second-level and of the last-level cache that a kernel may
    plan with.
    """

    triple: str
    name: str
    features: str
    lanes: int
    registers: int
    l1: int = ASSUMED_CACHES["l1"]
    l2: int = ASSUMED_CACHES["l2"]
    llc: int = ASSUMED_CACHES["llc"]

    @property
    def identity(self) -> str:
        """All that decides the machine code in one line: targets with equal identities may share it."""
        version = ".".join(str(part) for part in llvm.llvm_version_info)
        shape = f"{self.lanes} lanes {self.registers} registers caches {self.l1} {self.l2} {self.llc}"
        return f"{self.triple} {self.name} {self.features} {shape} LLVM {version}"

    @property
    def vectors(self) -> str:
        """What its vectors are called, in FOVEAL_TARGET too; how many lanes they have where they have no name."""
        found = VECTORS.get(architecture(self.triple), {}).items()
        return next((name for name, one in found if one.lanes == self.lanes), f"{self.lanes} lanes")

    @property
    def native(self) -> bool:
        """True if it is of the architecture this process runs on.

        While code for another architecture is generated, inline assembly ends the process.
        """
        return architecture(self.triple) == architecture(host().triple)

    @property
    def runs_here(self) -> bool:
        """True if this CPU can run its code."""
        if self == host():
            return True
        required = {name for name in self.features.split(",") if name.startswith("+")}
        return self.native and required <= set(host().features.split(","))


NEON = Target("aarch64-unknown-linux-gnu", "generic", "+neon", 4, 32)
SSE = Target("x86_64-unknown-linux-gnu", "x86-64", "+sse2", 4, 16)
AVX2 = Target("x86_64-unknown-linux-gnu", "x86-64-v3", "+avx2,+fma", 8, 16)
AVX512 = Target("x86_64-unknown-linux-gnu", "x86-64-v4", "+avx512f,+avx512vl", 16, 32)


def architecture(triple: str) -> str:
    """The first part of a triple, under one name for both ways to write AArch64."""
    return triple.split("-")[0].replace("arm64", "aarch64")


@cache
def initialize() -> None:
    """Set LLVM up for this process, once."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


@cache
def initialize_others() -> None:
    """Set LLVM up for all architectures it knows, once. It takes 10 ms, which most processes need not spend."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def widths(triple: str, features: set[str]) -> dict[str, Vectors]:
    """The vectors of a CPU that has these features, by name, the widest first."""
    return {name: one for name, one in VECTORS.get(architecture(triple), {}).items() if one.needs <= features}


def lanes_and_registers(triple: str, features: set[str]) -> tuple[int, int]:
    """Vector width in float32 lanes, and the number of vector registers."""
    for widest in widths(triple, features).values():
        return widest.lanes, widest.registers
    return 4, 16


def read_caches(folder: Path = CACHE_FOLDER) -> dict[str, int]:
    """Bytes of this machine's caches by name, l1, l2 and llc, as far as Linux describes them in `folder`.

    A cache that is not described, or not in a way that can be read, is left out; that is never an error.
    """
    sizes: dict[int, int] = {}
    for i in range(MAX_CACHES):
        # index0/level holds "1", index0/type "Data", index0/size "32K"
        files = [folder / f"index{i}" / name for name in ("level", "type", "size")]
        with suppress(OSError, ValueError, IndexError):
            level, kind, size = (file.read_text().strip() for file in files)
            if kind in ("Data", "Unified"):
                sizes[int(level)] = int(size[:-1]) * UNITS[size[-1]] if size[-1] in UNITS else int(size)
    named = {"l1": sizes.get(1), "l2": sizes.get(2), "llc": sizes[max(sizes)] if max(sizes, default=0) > 1 else None}
    return {name: size for name, size in named.items() if size is not None and size > 0}


def planned_caches(found: dict[str, int]) -> dict[str, int]:
    """The sizes that kernels plan with, where `found` was read: each rounded to its class.

    The classes are the assumed size times a power of four; a size s is in the class of a where a / 2 <= s < 2 a, so
    that from 512 KiB on, and below 2 MiB, a second-level cache counts as 1 MiB. What a kernel plans decides in which
    order sums are added, and so decides bits. Two machines of one type must therefore plan alike, although their
    hypervisors may report slightly different sizes. A plan need not be exact: its blocks are well below a cache's size.
    """
    planned = dict(ASSUMED_CACHES)
    for name, size in found.items():
        assert size > 0, f"{name} of {size} bytes"
        while size >= 2 * planned[name]:
            planned[name] *= 4
        while 2 * size < planned[name]:
            planned[name] //= 4
    return planned


@cache
def host() -> Target:
    """The CPU this process runs on, with its caches by class (see `planned_caches`)."""
    triple, name, features, present = llvm_thread.run(describe_host)
    shape = lanes_and_registers(triple, present)
    return Target(triple, name, features, *shape, **planned_caches(read_caches()))


def describe_host() -> tuple[str, str, str, set[str]]:
    """What LLVM says of this process's CPU: its triple, its name, its features in one line and those that it has."""
    initialize()
    features = llvm.get_host_cpu_features()
    present = {name for name, on in features.items() if on}
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), features.flatten(), present


def choices(of: Target) -> dict[str, Vectors]:
    """The vectors that FOVEAL_TARGET can name on a CPU, the widest first."""
    return widths(of.triple, {name[1:] for name in of.features.split(",") if name.startswith("+")})


def narrowed(of: Target, vectors: str, by: str = VARIABLE) -> Target:
    """A CPU with those of its vectors that have this name, and none wider: the same caches, and the same name, by which
    LLVM orders instructions.

    by: where the name was given. FovealError if the CPU has none of that name, or if there is no such name. What
    excludes wider ones stands last among the features, as LLVM takes one after the other: then nothing that builds on
    it is there either.
    """
    if vectors in ("", HOST):
        return of
    here = choices(of)
    if vectors not in here:
        known = any(vectors in names for names in VECTORS.values())
        problem = f"this CPU, {of.name}, has no such vectors" if known else "there is no target of that name"
        raise FovealError(
            f"{by} is {vectors[:40]!r}: {problem}; it can be {', '.join((*here, HOST))} here, or be left out, which"
            f" means {HOST}: the widest vectors of this CPU"
        )
    chosen, features = here[vectors], of.features
    if f"+{chosen.excluded}" in features.split(","):
        features += f",-{chosen.excluded}"
    return replace(of, features=features, lanes=chosen.lanes, registers=chosen.registers)


def asked() -> str:
    """What FOVEAL_TARGET says; empty if it is not set."""
    return os.environ.get(VARIABLE, "")


@cache
def used() -> Target:
    """What kernels of this process are shaped for: this CPU, with the vectors that FOVEAL_TARGET names when this is
    first asked. Processes that this one starts inherit the variable.
    """
    return narrowed(host(), asked())


def use(vectors: str, by: str) -> None:
    """Do what FOVEAL_TARGET=`vectors` does, for this process and those that it starts; by: where that was given.

    FovealError if it cannot be, also where kernels of this process are shaped for other vectors already.
    """
    wanted = narrowed(host(), vectors, by)
    if used.cache_info().currsize and used() != wanted:
        raise FovealError(f"{by} is {vectors!r}: this process has kernels for {used().vectors}; start another one")
    os.environ[VARIABLE] = vectors


# `assumed`: the target of the innermost `assume` block in this thread. No argument carries it, since between the block
# and the kernels that it shapes lie the trace, the passes and every operator's `lower`.
_local = threading.local()


def current() -> Target:
    """The target that kernels are shaped for: the one that is assumed, else that of the process."""
    assumed: Target | None = getattr(_local, "assumed", None)
    return assumed or used()


@contextmanager
def assume(target: Target) -> Iterator[None]:
    """Shape programs and kernels that this thread makes inside the block, or interprets there, for `target`."""
    previous, _local.assumed = getattr(_local, "assumed", None), target
    try:
        yield
    finally:
        _local.assumed = previous


def machine(target: Target, level: int = 3) -> llvm.TargetMachine:
    """A fresh LLVM target machine, which generates code with that effort, up to 3; for the thread that uses LLVM.

    An engine owns the one it is given, so it is never shared.

    Static relocation with the JIT's code model means absolute addresses, which are filled in when an object is loaded:
    several objects in one engine then need no common offset table.
    """
    initialize()
    if not target.native:
        initialize_others()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.name, features=target.features, opt=level, reloc="static", codemodel="jitdefault", jit=True
    )
