"""What the CPU has that kernels are shaped by: lanes per vector, vector registers, cache sizes."""

from dataclasses import dataclass
from functools import cache

from llvmlite import binding as llvm


@dataclass(frozen=True)
class Target:
    """A machine to generate code for.

    lanes: float32 values per vector register (16 on AVX-512, 8 on AVX2, 4 on NEON and SSE).
    registers: vector registers a kernel may plan with.
    """

    triple: str
    name: str
    features: str
    lanes: int
    registers: int

    @property
    def identity(self) -> str:
        """What decides the machine code: two equal identities may share it."""
        version = ".".join(str(part) for part in llvm.llvm_version_info)
        return f"{self.triple} {self.name} {self.features} {self.lanes} LLVM {version}"


@cache
def initialize() -> None:
    """Set LLVM up for this process, once."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


def lanes_and_registers(triple: str, features: set[str]) -> tuple[int, int]:
    """Vector width in float32 lanes, and the number of vector registers."""
    if "avx512f" in features and "avx512vl" in features:
        return 16, 32
    if "avx2" in features:
        return 8, 16
    return 4, 32 if triple.startswith(("aarch64", "arm64")) else 16


@cache
def host() -> Target:
    """The CPU this process runs on."""
    initialize()
    features = llvm.get_host_cpu_features()
    triple = llvm.get_process_triple()
    present = {name for name, on in features.items() if on}
    return Target(
        triple,
        llvm.get_host_cpu_name(),
        features.flatten(),
        *lanes_and_registers(triple, present),
    )


def machine(target: Target) -> llvm.TargetMachine:
    """A fresh LLVM target machine. An engine owns the one it is given, so it is never shared.

    Static relocation with the JIT's code model means absolute addresses, filled in when an object is loaded: several
    objects in one engine then need no common offset table.
    """
    initialize()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.name,
        features=target.features,
        opt=3,
        reloc="static",
        codemodel="jitdefault",
        jit=True,
    )
