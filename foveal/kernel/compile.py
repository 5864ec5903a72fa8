"""A kernel's description -> LLVM IR -> machine code, kept in memory and on disk.

A `Kernel` is a value: body, shapes and constants decide the code, so equal kernels share one compilation, in every
program and in every process. The key is a hash of that description and of the sources that it is built by, so that a
kernel is found in the cache without building its IR.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir

from foveal import debug
from foveal.errors import KernelError
from foveal.kernel import cache, interpret
from foveal.kernel.lang import CONTRACT, I64, KINDS, POINTER, REASSOCIATE, Array, Builder, build_in
from foveal.kernel.sources import imported_digest, module_digest
from foveal.kernel.target import Target, current, host, machine


@dataclass(frozen=True)
class ArraySpec:
    """Shape, strides in elements, and dtype of one array that a kernel is called on.

    streamed: it begins on a cache line, and is so large that it does not stay in the cache until it is read.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str = "float32"
    streamed: bool = False


@dataclass(frozen=True)
class Kernel:
    """A body with the shapes it is specialised to.

    arrays: those it is called on, in the body's order, outputs first.
    static: the body's keyword arguments, which are known while it is built.
    plain: a loop nest without lanes of its own; LLVM vectorises its loops, and may split its sums to do so.
    modules: names of modules that the code depends on, apart from those of the body and of Foveal.
    """

    body: Callable[..., None]
    arrays: tuple[ArraySpec, ...]
    static: tuple[tuple[str, Any], ...] = ()
    plain: bool = False
    modules: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The operator's name where the body is an operator's plain kernel, else the body's own."""
        operator = getattr(self.body, "__self__", None)
        return str(operator.name) if operator is not None else self.body.__name__

    def run_body(self, arrays: Sequence[Array] | Sequence[interpret.Array]) -> None:
        """Call the body, which traces it or computes, depending on the arrays."""
        self.body(*arrays, **dict(self.static))

    def interpret(self, arrays: Sequence[np.ndarray]) -> None:
        """Run the same body in plain Python on NumPy arrays of the described shapes and strides."""
        # lanes that a `where` does not choose may overflow, as they do in machine code
        with np.errstate(all="ignore"):
            self.run_body([interpret.Array(array) for array in arrays])


def key(kernel: Kernel, target: Target) -> str:
    """The kernel's name in the cache."""
    # a family of operators may share one method, so the class counts as well
    operator = getattr(kernel.body, "__self__", None)
    owner = type(operator)
    modules = {kernel.body.__module__, *kernel.modules, *([] if operator is None else [owner.__module__])}
    # a function that exec made may have None for its module
    outside = [module_digest(m) for m in sorted(map(str, modules)) if not m.startswith("foveal.")]
    parts = (
        kernel.body.__module__,
        kernel.body.__qualname__,
        owner.__module__,
        owner.__qualname__,
        outside,
        kernel.arrays,
        kernel.static,
        kernel.plain,
        target.identity,
        imported_digest(),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


def build_ir(kernel: Kernel, target: Target, symbol: str) -> str:
    """LLVM IR of `void symbol(ptr* arguments, i64 thread, i64 threads)`.

    The arguments are pointers to the arrays, then one to the counters of the kernel's parallel loops, int64
    [PARALLEL_LOOPS, threads], all 0; or null in its place.
    """
    # the body as a function of its own, whose arguments are the pointers: LLVM can be told about arguments what it
    # cannot be told about pointers that are loaded
    module = ir.Module(symbol)
    module.triple = target.triple
    count = len(kernel.arrays)
    body_type = ir.FunctionType(ir.VoidType(), [POINTER] * (count + 1) + [I64.ir] * 2)
    body = ir.Function(module, body_type, "body")
    body.linkage = "internal"
    body.attributes.add("noinline")
    if kernel.plain:
        for argument in body.args[:count]:
            argument.add_attribute("noalias")
    # run the kernel's Python function, which leaves its instructions in the body
    builder = Builder(module, body, target, REASSOCIATE if kernel.plain else CONTRACT)
    arrays = [
        Array(argument, spec.shape, spec.strides, KINDS[np.dtype(spec.dtype)], spec.streamed)
        for argument, spec in zip(body.args, kernel.arrays, strict=False)
    ]
    with build_in(builder):
        kernel.run_body(arrays)
        builder.finish()
    # the entry, which all kernels have alike: load the pointers and call the body
    entry_type = ir.FunctionType(ir.VoidType(), [POINTER, I64.ir, I64.ir])
    entry = ir.Function(module, entry_type, symbol)
    b = ir.IRBuilder(entry.append_basic_block())
    table, thread, threads = entry.args
    slots = [b.gep(table, [I64.ir(i)], source_etype=POINTER) for i in range(count + 1)]
    b.call(body, [b.load(slot, typ=POINTER) for slot in slots] + [thread, threads])
    b.ret_void()
    return str(module)


def optimise(text: str, target: Target, vectorise: bool) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """Parse, verify and optimise IR; gives the module and the machine it is for.

    vectorise: let LLVM unroll and vectorise loops. Kernels that are not plain do both themselves, and what LLVM added
    would spill their register tiles.
    """
    tm = machine(target)
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = vectorise
    options.slp_vectorization = False
    passes = llvm.create_pass_builder(tm, options)
    passes.getModulePassManager().run(module, passes)
    return module, tm


def assembly(kernel: Kernel, target: Target) -> str:
    """A kernel's assembly, for any target: for people to read."""
    module, tm = optimise(build_ir(kernel, target, "kernel"), target, kernel.plain)
    return str(tm.emit_assembly(module))


def emit_object(kernel: Kernel, target: Target, symbol: str) -> bytes:
    """Compile a kernel to an object file that defines `symbol`."""
    text = build_ir(kernel, target, symbol)
    module, tm = optimise(text, target, kernel.plain)
    if debug.level() >= debug.IR:
        debug.show(f"IR of {kernel.name}", str(module))
    if debug.level() >= debug.ASSEMBLY:
        debug.show(f"assembly of {kernel.name}", tm.emit_assembly(module))
    return bytes(tm.emit_object(module))


def defines(code: bytes, symbol: str) -> bool:
    """True if LLVM can load this object code and it has the symbol; anything else would crash the process later."""
    # LLVM gives a null pointer for what it cannot parse
    return symbol.encode() in code and bool(llvm.ObjectFileRef.from_data(code)._as_parameter_)


class LoadedCode:
    """Object code in executable memory. The engine is kept: the addresses are valid as long as it exists."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        """objects: object files, each under the symbol that it defines; KernelError if one does not define it."""
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine(host()))
        for body in objects.values():
            self.engine.add_object_file(llvm.ObjectFileRef.from_data(body))
        self.engine.finalize_object()
        self.addresses = {name: self.engine.get_function_address(name) for name in objects}
        absent = [name for name, address in self.addresses.items() if not address]
        if absent:
            raise KernelError(f"object code lacks {', '.join(absent)}; `foveal doctor --clear-cache` may help")


# of this process: the address of each kernel that is in memory, by symbol, and what keeps the addresses valid
_loaded: dict[str, int] = {}
_engines: list[LoadedCode] = []


@dataclass
class Statistics:
    """How many kernels this process compiled, and how many it found on disk."""

    compiled: int = 0
    from_disk: int = 0


statistics = Statistics()


def native(kernels: list[Kernel]) -> list[int]:
    """Addresses of the kernels' machine code for the current target, compiling those that are in no cache.

    KernelError if this machine cannot run code for that target.
    """
    target = current()
    if not target.runs_here:
        raise KernelError(
            f"kernels for {target.name} ({target.triple.split('-')[0]}) do not run on this machine, a {host().name}:"
            " show their code with foveal.kernel.compile.assembly, or assume a target whose `runs_here` is true"
        )
    keys = [key(kernel, target) for kernel in kernels]
    # object code of the kernels that are not in memory yet, by symbol
    fresh: dict[str, bytes] = {}
    # at this level every kernel is compiled again, so that its IR is there to be shown
    show = debug.level() >= debug.IR
    for name, kernel in zip(keys, kernels, strict=True):
        symbol = f"k{name}"
        if symbol in fresh or (symbol in _loaded and not show):
            continue
        code = None if show else cache.read(name)
        if code is None or not defines(code, symbol):
            code = emit_object(kernel, target, symbol)
            cache.write(name, code)
            statistics.compiled += 1
        else:
            statistics.from_disk += 1
        fresh[symbol] = code
    # all of them are loaded at once, into one engine
    if fresh:
        cache.stay_small()
        loaded = LoadedCode(fresh)
        _engines.append(loaded)
        _loaded.update(loaded.addresses)
    return [_loaded[f"k{name}"] for name in keys]
