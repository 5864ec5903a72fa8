"""A kernel's description -> LLVM IR -> machine code, kept in memory and on disk.

A `Kernel` is a value: body, shapes and constants decide the code, so equal kernels share one compilation, in every
program and in every process. The key is a hash of that description and of the sources that it is built by, so that a
kernel is found in the cache without building its IR.
"""

import hashlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir

from foveal import debug
from foveal.errors import KernelError
from foveal.kernel import cache, interpret, llvm_thread, pool
from foveal.kernel.builder import Callee, active
from foveal.kernel.lang import CONTRACT, F32, I64, KINDS, POINTER, REASSOCIATE, Array, Builder, Index, Value, build_in
from foveal.kernel.pool import Task
from foveal.kernel.sources import imported_digest, module_digest
from foveal.kernel.target import Target, current, host, machine
from foveal.kernel.values import Traced
from foveal.system import give_back


@dataclass(frozen=True)
class Size:
    """A number of elements that is known when a kernel runs, not when it is built: the call gives it.

    index: its place among the sizes of the call.
    """

    index: int


@dataclass(frozen=True)
class ArraySpec:
    """Shape, strides in elements, and dtype of one array that a kernel is called on.

    streamed: it begins on a cache line, and is so large that it does not stay in the cache until it is read.
    """

    shape: tuple[int | Size, ...]
    strides: tuple[int | Size, ...]
    dtype: str = "float32"
    streamed: bool = False


@dataclass(frozen=True)
class Kernel:
    """A body with the shapes it is specialised to.

    arrays: those it is called on, in the body's order, outputs first.
    static: the body's keyword arguments, which are known while it is built.
    plain: a loop nest without lanes of its own; LLVM vectorises its loops, and may split its sums to do so.
    modules: names of modules that the code depends on, apart from those of the body and of Foveal.
    sizes: how many sizes a call gives; the arrays' `Size`s are among them.
    numbers: how many float32 numbers a call gives: the body gets them as its keyword argument `numbers`, a tuple.
    functions: what the body calls by address: it gets them as its keyword argument `functions`, a tuple. Kernels that
    differ in them only share their code.
    indices: of such a function, how many indices it is called on after the arrays; None for the kernel of a call.
    """

    body: Callable[..., None]
    arrays: tuple[ArraySpec, ...]
    static: tuple[tuple[str, Any], ...] = ()
    plain: bool = False
    modules: tuple[str, ...] = ()
    sizes: int = 0
    functions: "tuple[Kernel, ...]" = ()
    indices: int | None = None
    numbers: int = 0

    @property
    def name(self) -> str:
        """The operator's name where the body is an operator's plain kernel, else the body's own."""
        operator = getattr(self.body, "__self__", None)
        return str(operator.name) if operator is not None else self.body.__name__

    @property
    def signature(self) -> tuple[tuple[ArraySpec, ...], int]:
        """What a caller of this function has to know: the arrays, and how many indices follow them."""
        return self.arrays, self.indices or 0

    def run_body(
        self,
        arrays: Sequence[Array] | Sequence[interpret.Array],
        functions: Sequence[Callable[..., None]],
        numbers: Sequence[Value] | Sequence[np.float32],
    ) -> None:
        """Call the body, which traces it or computes, depending on the arrays. functions: what it calls as such."""
        given = {"functions": tuple(functions), "numbers": tuple(numbers)}
        self.body(*arrays, **dict(self.static), **{name: values for name, values in given.items() if values})

    def interpret(self, arrays: Sequence[np.ndarray], numbers: Sequence[float] = ()) -> None:
        """Run the same body in plain Python on NumPy arrays of the described shapes and strides."""
        # lanes that a `where` does not choose may overflow, as they do in machine code
        with np.errstate(all="ignore"):
            functions = [partial(function.body, **dict(function.static)) for function in self.functions]
            self.run_body([interpret.Array(array) for array in arrays], functions, [np.float32(n) for n in numbers])


def outside_modules(kernel: Kernel) -> list[str]:
    """Names of the modules outside of Foveal that the kernel's code depends on."""
    operator = getattr(kernel.body, "__self__", None)
    own = [] if operator is None else [type(operator).__module__]
    # a function that exec made may have None for its module
    modules = map(str, {kernel.body.__module__, *kernel.modules, *own})
    return sorted(name for name in modules if not name.startswith("foveal."))


def key(kernel: Kernel, target: Target) -> str:
    """The kernel's name in the cache."""
    # a family of operators may share one method, so the class counts as well
    owner = type(getattr(kernel.body, "__self__", None))
    parts = (
        kernel.body.__module__,
        kernel.body.__qualname__,
        owner.__module__,
        owner.__qualname__,
        [module_digest(name) for name in outside_modules(kernel)],
        kernel.arrays,
        kernel.static,
        kernel.plain,
        kernel.sizes,
        kernel.numbers,
        [function.signature for function in kernel.functions],
        kernel.indices,
        target.identity,
        imported_digest(),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Function:
    """A function that a kernel calls by address, as a body that is built sees it."""

    #: its address, and what it is called on
    address: Callee
    kernel: Kernel

    def __call__(self, *arguments: Array | Index) -> None:
        """Call it on arrays, of which their origins are passed on, then indices."""
        count = len(self.kernel.arrays)
        b, pointers, indices = active().b, [], []
        for array, spec in zip(arguments[:count], self.kernel.arrays, strict=True):
            assert isinstance(array, Array)
            # the callee computes addresses with strides of its own
            assert array.strides == spec.strides, f"{self.kernel.name}: strides {array.strides}, not {spec.strides}"
            pointers.append(array.pointer)
        for index in arguments[count:]:
            assert not isinstance(index, Array)
            indices.append(index.get().ir if isinstance(index, Traced) else I64.ir(int(index)))
        assert len(indices) == self.kernel.indices
        b.call(self.address, [*pointers, *indices])


def build_ir(kernel: Kernel, target: Target, symbol: str) -> str:
    """LLVM IR of `void symbol(ptr* arguments, i64 thread, i64 threads)`.

    The arguments are pointers to the arrays, the sizes, the numbers, the addresses of functions, then a pointer to the
    counters of the kernel's parallel loops, int64 [PARALLEL_LOOPS, threads], all 0; or null in its place.

    Of a function that kernels call by address: `void symbol(ptr array ..., i64 index ...)`.
    """
    # the body as a function of its own, whose arguments are the pointers: LLVM can be told about arguments what it
    # cannot be told about pointers that are loaded
    module = ir.Module(symbol)
    module.triple = target.triple
    count, functions = len(kernel.arrays), len(kernel.functions)
    if kernel.indices is not None:
        assert not kernel.sizes
        assert not kernel.numbers
        assert not kernel.functions, "a function that is called by address calls no other"
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), function_types(kernel)), symbol)
        emit_body(kernel, Builder(module, function, target, CONTRACT, shared=False))
        return str(module)
    # a number takes the lower half of its word
    types = [POINTER] * count + [I64.ir] * kernel.sizes + [F32.ir] * kernel.numbers + [POINTER] * (functions + 1)
    body = ir.Function(module, ir.FunctionType(ir.VoidType(), [*types, I64.ir, I64.ir]), "body")
    body.linkage = "internal"
    body.attributes.add("noinline")
    if kernel.plain:
        for argument in body.args[:count]:
            argument.add_attribute("noalias")
    emit_body(kernel, Builder(module, body, target, REASSOCIATE if kernel.plain else CONTRACT))
    # the entry, which all kernels have alike: load the arguments and call the body
    entry_type = ir.FunctionType(ir.VoidType(), [POINTER, I64.ir, I64.ir])
    entry = ir.Function(module, entry_type, symbol)
    b = ir.IRBuilder(entry.append_basic_block())
    table, thread, threads = entry.args
    slots = [b.gep(table, [I64.ir(i)], source_etype=POINTER) for i in range(len(types))]
    loaded = [b.load(slot, typ=kind) for slot, kind in zip(slots, types, strict=True)]
    b.call(body, [*loaded, thread, threads])
    b.ret_void()
    return str(module)


def function_types(kernel: Kernel) -> list[ir.Type]:
    """The types of the arguments of a function that is called by address."""
    return [POINTER] * len(kernel.arrays) + [I64.ir] * (kernel.indices or 0)


def emit_body(kernel: Kernel, builder: Builder) -> None:
    """Run the kernel's Python function, which leaves its instructions in the builder's function."""
    arguments = builder.function.args
    count = len(kernel.arrays)
    integers = [Value(argument, I64) for argument in arguments[count : count + kernel.sizes + (kernel.indices or 0)]]

    def known(extents: tuple[int | Size, ...]) -> tuple[Any, ...]:
        return tuple(integers[n.index] if isinstance(n, Size) else n for n in extents)

    arrays = [
        Array(argument, known(spec.shape), known(spec.strides), KINDS[np.dtype(spec.dtype)], spec.streamed)
        for argument, spec in zip(arguments, kernel.arrays, strict=False)
    ]
    first_number = count + kernel.sizes
    first_address = first_number + kernel.numbers
    numbers = [Value(argument, F32) for argument in arguments[first_number:first_address]]
    addresses = arguments[first_address : first_address + len(kernel.functions)]
    functions = [
        Function(Callee(address, function_types(function)), function)
        for address, function in zip(addresses, kernel.functions, strict=True)
    ]
    with build_in(builder):
        if kernel.indices is None:
            kernel.run_body(arrays, functions, numbers)
        else:
            kernel.body(*arrays, *integers, **dict(kernel.static))
        builder.finish()


def optimise(text: str, target: Target, vectorise: bool) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """Parse, verify and optimise IR; gives the module and the machine it is for. For the thread that uses LLVM.

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


def emit_object(text: str, target: Target, vectorise: bool, level: int) -> tuple[bytes, str, str]:
    """Compile IR to an object file; also gives the optimised IR and the assembly, if they are shown at that level.

    For the thread that uses LLVM.
    """
    module, tm = optimise(text, target, vectorise)
    ir = str(module) if level >= debug.IR else ""
    listing = str(tm.emit_assembly(module)) if level >= debug.ASSEMBLY else ""
    return bytes(tm.emit_object(module)), ir, listing


def emit_assembly(text: str, target: Target, vectorise: bool) -> str:
    """Compile IR to assembly. For the thread that uses LLVM."""
    module, tm = optimise(text, target, vectorise)
    return str(tm.emit_assembly(module))


def assembly(kernel: Kernel, target: Target) -> str:
    """A kernel's assembly, for any target: for people to read."""
    text = build_ir(kernel, target, "kernel")
    return llvm_thread.run(lambda: emit_assembly(text, target, kernel.plain))


def compile_kernel(kernel: Kernel, target: Target, symbol: str) -> bytes:
    """Compile a kernel to an object file that defines `symbol`."""
    text, level = build_ir(kernel, target, symbol), debug.level()
    code, ir, listing = llvm_thread.run(lambda: emit_object(text, target, kernel.plain, level))
    if level >= debug.IR:
        debug.show(f"IR of {kernel.name}", ir)
    if level >= debug.ASSEMBLY:
        debug.show(f"assembly of {kernel.name}", listing)
    return code


def defines(code: bytes, symbol: str) -> bool:
    """True if LLVM can load this object code and it has the symbol; anything else would crash the process later."""
    # LLVM gives a null pointer for what it cannot parse
    return symbol.encode() in code and llvm_thread.run(lambda: bool(llvm.ObjectFileRef.from_data(code)._as_parameter_))


class LoadedCode:
    """Kernels in executable memory, which is freed when this object dies: who runs them holds it."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        """objects: object files, each under the symbol that it defines; KernelError if one does not define it.

        For the thread that uses LLVM.
        """
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine(host()))
        for body in objects.values():
            engine.add_object_file(llvm.ObjectFileRef.from_data(body))
        engine.finalize_object()
        self.addresses = {name: int(engine.get_function_address(name)) for name in objects}
        absent = [name for name, address in self.addresses.items() if not address]
        if absent:
            raise KernelError(f"object code lacks {', '.join(absent)}; `foveal doctor --clear-cache` may help")
        llvm_thread.keep_while(self, engine)


@dataclass
class Statistics:
    """How many kernels were compiled, and how many found on disk."""

    compiled: int = 0
    from_disk: int = 0


@dataclass(frozen=True)
class NativeCode:
    """Machine code of some kernels, which stays in memory as long as this object lives."""

    #: of each kernel
    addresses: list[int]
    #: what keeps the addresses valid
    loaded: list[LoadedCode]
    #: where those came from that were not in memory
    found: Statistics


# of this process: the code that each kernel in memory is part of, by symbol. The thread that uses LLVM writes them
_loaded: dict[str, weakref.ref[LoadedCode]] = {}
statistics = Statistics()


def load(objects: dict[str, bytes], found: Statistics) -> LoadedCode:
    """Load object files, all into one engine, and count them. For the thread that uses LLVM."""
    code = LoadedCode(objects)
    for symbol in [symbol for symbol, reference in _loaded.items() if reference() is None]:
        del _loaded[symbol]
    _loaded.update(dict.fromkeys(objects, weakref.ref(code)))
    statistics.compiled += found.compiled
    statistics.from_disk += found.from_disk
    return code


def stored(name: str) -> bytes | None:
    """The object file of a kernel in the cache; None if there is none that can be loaded."""
    body = cache.read(name)
    return body if body is not None and defines(body, f"k{name}") else None


def compile_missing(
    missing: dict[str, Kernel], target: Target, found: Statistics, alone: bool
) -> Iterator[tuple[str, bytes]]:
    """Compile kernels, given by their keys, and count them: the object files, each after the symbol that it defines.

    alone: in this process only, one after another.
    """
    # no module of the user's is imported by other processes
    shared = {name for name, kernel in missing.items() if not (alone or outside_modules(kernel))}
    tasks = [
        Task(name, kernel.name, pool.message((name, kernel, target)) if name in shared else None)
        for name, kernel in missing.items()
    ]
    compilation = pool.Compilation(
        tasks, lambda task: stored(task.name), lambda task: compile_kernel(missing[task.name], target, f"k{task.name}")
    )
    compilation.run()
    found.from_disk += len(compilation.found)
    found.compiled += len(tasks) - len(compilation.found)
    return ((f"k{name}", compilation.objects[name]) for name in missing)


def native(kernels: list[Kernel]) -> NativeCode:
    """The kernels' machine code for the current target, compiling those that are in no cache.

    KernelError if this machine cannot run code for that target.
    """
    target = current()
    if not target.runs_here:
        raise KernelError(
            f"kernels for {target.name} ({target.triple.split('-')[0]}) do not run on this machine, a {host().name}:"
            " show their code with foveal.kernel.compile.assembly, or assume a target whose `runs_here` is true"
        )
    keys = [key(kernel, target) for kernel in kernels]
    # by symbol: the code of the kernels that are in memory, and object files of those that are not
    code: dict[str, LoadedCode] = {}
    fresh: dict[str, bytes] = {}
    found = Statistics()
    missing: dict[str, Kernel] = {}
    # at this level every kernel is compiled again, so that its IR is there to be shown
    show = debug.level() >= debug.IR
    for name, kernel in zip(keys, kernels, strict=True):
        symbol = f"k{name}"
        if symbol in code or symbol in fresh or name in missing:
            continue
        reference = None if show else _loaded.get(symbol)
        loaded = None if reference is None else reference()
        if loaded is not None:
            code[symbol] = loaded
            continue
        body = None if show else stored(name)
        if body is None:
            missing[name] = kernel
        else:
            fresh[symbol] = body
    found.from_disk = len(fresh)
    if missing:
        fresh.update(compile_missing(missing, target, found, alone=show))
    if fresh:
        cache.stay_small()
        code.update(dict.fromkeys(fresh, llvm_thread.run(lambda: load(fresh, found))))
    if missing:
        give_back()
    addresses = [code[f"k{name}"].addresses[f"k{name}"] for name in keys]
    return NativeCode(addresses, list(dict.fromkeys(code.values())), found)
