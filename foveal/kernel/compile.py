"""A kernel's description -> LLVM IR -> machine code, kept in memory and on disk.

A `Kernel` is a value: body, shapes and constants decide the code, so equal kernels share one compilation, in every
program and in every process. The key is a hash of that description and of the sources that it is built by, so that a
kernel is found in the cache without building its IR.
"""

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from llvmlite import binding as llvm

from foveal import debug
from foveal.errors import KernelError
from foveal.kernel import cache, interpret, llvm_thread, pool
from foveal.kernel.builder import active
from foveal.kernel.ir import Operand
from foveal.kernel.lang import CONTRACT, F32, I64, KINDS, POINTER, REASSOCIATE, Array, Builder, Index, Value, build_in
from foveal.kernel.pool import Task
from foveal.kernel.sources import imported_digest, is_outside, module_digest, own_state
from foveal.kernel.target import Target, current, host, machine
from foveal.kernel.values import Traced
from foveal.system import give_back


@dataclass(frozen=True)
class Size:
    """A number of elements that is known when a kernel runs, not when it is built: the call gives it.

    index: its place among the sizes of the call.
    """

    index: int

    # the one that dataclasses make takes longer than all else of a key
    def __repr__(self) -> str:
        return f"Size({self.index})"


@dataclass(frozen=True)
class ArraySpec:
    """Shape, strides in elements, and dtype of one array that a kernel is called on.

    streamed: it begins on a cache line, and is so large that it does not stay in the cache until it is read.
    """

    shape: tuple[int | Size, ...]
    strides: tuple[int | Size, ...]
    dtype: str = "float32"
    streamed: bool = False

    def __repr__(self) -> str:
        return f"ArraySpec({self.shape}, {self.strides}, {self.dtype!r}, {self.streamed})"


@dataclass(frozen=True)
class Kernel:
    """A body with the shapes it is specialised to.

    arrays: those it is called on, in the body's order, outputs first.
    static: the body's keyword arguments, which are known while it is built.
    plain: a loop nest without lanes of its own; LLVM vectorises its loops, and may split its sums to do so.
    operators: those from outside of Foveal that are fused into it.
    sizes: how many sizes a call gives; the `Size`s of the arrays are among them, and those that stand for a value in
    `static`, which the body gets in their place.
    numbers: how many float32 numbers a call gives: the body gets them as its keyword argument `numbers`, a tuple.
    functions: what the body calls by address: it gets them as its keyword argument `functions`, a tuple. Kernels that
    differ in them only share their code.
    indices: of such a function, how many indices it is called on after the arrays; None for the kernel of a call. The
    `Size`s of its arrays are among them.
    """

    body: Callable[..., None]
    arrays: tuple[ArraySpec, ...]
    static: tuple[tuple[str, Any], ...] = ()
    plain: bool = False
    operators: tuple[object, ...] = ()
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
        sizes: Sequence[Value] | Sequence[int],
    ) -> None:
        """Call the body, which traces it or computes, depending on the arrays. functions: what it calls as such."""
        static = {name: sizes[value.index] if isinstance(value, Size) else value for name, value in self.static}
        given = {"functions": tuple(functions), "numbers": tuple(numbers)}
        self.body(*arrays, **static, **{name: values for name, values in given.items() if values})

    def interpret(self, arrays: Sequence[np.ndarray], numbers: Sequence[float] = (), sizes: Sequence[int] = ()) -> None:
        """Run the same body in plain Python on NumPy arrays of the described shapes and strides."""
        # lanes that a `where` does not choose may overflow, as they do in machine code
        with np.errstate(all="ignore"):
            functions = [partial(function.body, **dict(function.static)) for function in self.functions]
            given = [np.float32(n) for n in numbers]
            self.run_body([interpret.Array(array) for array in arrays], functions, given, sizes)


def outside_operators(kernel: Kernel) -> list[object]:
    """The operators outside of Foveal that the kernel's code depends on."""
    operators = (getattr(kernel.body, "__self__", None), *kernel.operators)
    return [operator for operator in operators if operator is not None and is_outside(type(operator).__module__)]


def outside_modules(kernel: Kernel) -> list[str]:
    """Names of the modules outside of Foveal that the kernel's code depends on."""
    # a function that exec made may have None for its module
    modules = {str(kernel.body.__module__), *(str(type(own).__module__) for own in outside_operators(kernel))}
    return sorted(filter(is_outside, modules))


def key(kernel: Kernel, target: Target) -> str:
    """The kernel's name in the cache."""
    # a family of operators may share one method, so the class counts as well
    owner = type(getattr(kernel.body, "__self__", None))
    parts = (
        kernel.body.__module__,
        kernel.body.__qualname__,
        owner.__module__,
        owner.__qualname__,
        [own_state(operator) for operator in outside_operators(kernel)],
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
    address: str
    kernel: Kernel

    def __call__(self, *arguments: Array | Index) -> None:
        """Call it on arrays, of which their origins are passed on, then indices."""
        count = len(self.kernel.arrays)
        operands: list[Operand] = []
        for array, spec in zip(arguments[:count], self.kernel.arrays, strict=True):
            assert isinstance(array, Array)
            # the callee computes addresses with strides of its own; those that are sizes are among its indices
            agree = [
                isinstance(own, Size) or (isinstance(stride, int) and own == stride)
                for own, stride in zip(spec.strides, array.strides, strict=True)
            ]
            assert all(agree), f"{self.kernel.name}: strides {array.strides}, not {spec.strides}"
            operands.append(array.pointer)
        for index in arguments[count:]:
            assert not isinstance(index, Array)
            operands.append(index.get().ir if isinstance(index, Traced) else int(index))
        kinds = [kind for kind, _ in function_parameters(self.kernel)]
        passed = ", ".join(f"{kind} {operand}" for kind, operand in zip(kinds, operands, strict=True))
        active().b.do(f"call void {self.address}({passed})")


# A kernel's module: an entry that loads the arguments, and then the body. The body of a plain kernel is a function of
# its own, whose arguments they are: LLVM can be told that arguments do not overlap, which it cannot be told of pointers
# that are loaded.
MODULE = """\
target triple = "{triple}"
{declarations}
define void @{symbol}({parameters}) nounwind {{
entry:
{loads}
{body}
}}
!0 = !{{i32 1}}
"""
CALL = """\
call void @body({arguments})
ret void
}}
define internal void @body({parameters}) noinline nounwind {{
entry:
{body}"""
# of every kernel
THREAD, THREADS = (I64.ir, "%thread"), (I64.ir, "%threads")


def build_ir(kernel: Kernel, target: Target, symbol: str) -> str:
    """LLVM IR of `void symbol(ptr* arguments, i64 thread, i64 threads)`.

    The arguments are pointers to the arrays, the sizes, the numbers, the addresses of functions, then a pointer to the
    counters of the kernel's parallel loops, int64 [PARALLEL_LOOPS, threads], all 0; or null in its place, if one
    thread alone runs it.

    Of a function that kernels call by address: `void symbol(ptr array ..., i64 index ...)`.
    """
    is_function = kernel.indices is not None
    builder = Builder(kernel.name, target, REASSOCIATE if kernel.plain else CONTRACT, shared=not is_function)
    emit_body(kernel, builder)
    body, loads = builder.b.body(), ""
    if is_function:
        assert not kernel.sizes
        assert not kernel.numbers
        assert not kernel.functions, "a function that is called by address calls no other"
        parameters = listed(function_parameters(kernel))
    else:
        parameters = listed([(POINTER, "%table"), THREAD, THREADS])
        # a number takes the lower half of its word
        words = kernel_words(kernel)
        loads = "\n".join(
            f"%word{i} = getelementptr ptr, ptr %table, i64 {i}\n{name} = load {kind}, ptr %word{i}"
            for i, (kind, name) in enumerate(words)
        )
        if kernel.plain:
            count = len(kernel.arrays)
            own = [(f"{kind} noalias" if i < count else kind, name) for i, (kind, name) in enumerate(words)]
            arguments = listed([*words, THREAD, THREADS])
            body = CALL.format(arguments=arguments, parameters=listed([*own, THREAD, THREADS]), body=body)
    declarations = "\n".join(builder.b.declarations)
    return MODULE.format(
        triple=target.triple, declarations=declarations, symbol=symbol, parameters=parameters, loads=loads, body=body
    )


def listed(parameters: list[tuple[str, str]]) -> str:
    """Parameters, or arguments, as they stand between parentheses."""
    return ", ".join(f"{kind} {name}" for kind, name in parameters)


def numbered(kind: str, name: str, count: int) -> list[tuple[str, str]]:
    """The types and names of so many parameters of one kind."""
    return [(kind, f"%{name}{i}") for i in range(count)]


def kernel_words(kernel: Kernel) -> list[tuple[str, str]]:
    """The types and names of what a kernel's table of arguments holds, a word each."""
    return [
        *numbered(POINTER, "array", len(kernel.arrays)),
        *numbered(I64.ir, "integer", kernel.sizes),
        *numbered(F32.ir, "number", kernel.numbers),
        *numbered(POINTER, "function", len(kernel.functions)),
        (POINTER, "%counters"),
    ]


def function_parameters(kernel: Kernel) -> list[tuple[str, str]]:
    """The types and names of the parameters of a function that is called by address."""
    return [*numbered(POINTER, "array", len(kernel.arrays)), *numbered(I64.ir, "integer", kernel.indices or 0)]


def emit_body(kernel: Kernel, builder: Builder) -> None:
    """Run the kernel's Python function, which leaves its instructions in the builder."""
    integers = [Value(f"%integer{i}", I64) for i in range(kernel.sizes + (kernel.indices or 0))]

    def known(extents: tuple[int | Size, ...]) -> tuple[Any, ...]:
        return tuple(integers[n.index] if isinstance(n, Size) else n for n in extents)

    arrays = [
        Array(f"%array{i}", known(spec.shape), known(spec.strides), KINDS[np.dtype(spec.dtype)], spec.streamed)
        for i, spec in enumerate(kernel.arrays)
    ]
    numbers = [Value(f"%number{i}", F32) for i in range(kernel.numbers)]
    functions = [Function(f"%function{i}", function) for i, function in enumerate(kernel.functions)]
    with build_in(builder):
        if kernel.indices is None:
            kernel.run_body(arrays, functions, numbers, integers)
        else:
            kernel.body(*arrays, *integers, **dict(kernel.static))
        builder.finish()


def optimise(text: str, target: Target, plain: bool) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """Parse, verify and optimise IR; gives the module and the machine it is for. For the thread that uses LLVM.

    LLVM unrolls and vectorises the loops of plain kernels. The others do both themselves, and what LLVM added would
    spill their register tiles. They are written as LLVM's passes would leave them, so that it is enough to order
    operands (of two products that are added, the order decides which one is fused with the sum) and to combine
    instructions. With less effort in code generation, level 1, sums of gradients take a tenth longer.
    """
    tm = machine(target, level=3 if plain else 2)
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = plain
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(tm, options)
    if plain:
        builder.getModulePassManager().run(module, builder)
        return module, tm
    passes = llvm.create_new_function_pass_manager()
    passes.add_reassociate_pass()
    passes.add_instruction_combine_pass()
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return module, tm


def emit_object(text: str, target: Target, plain: bool, level: int) -> tuple[bytes, str, str]:
    """Compile IR to an object file; also gives the optimised IR and the assembly, if they are shown at that level.

    For the thread that uses LLVM.
    """
    module, tm = optimise(text, target, plain)
    ir = str(module) if level >= debug.IR else ""
    listing = str(tm.emit_assembly(module)) if level >= debug.ASSEMBLY else ""
    return bytes(tm.emit_object(module)), ir, listing


def emit_assembly(text: str, target: Target, plain: bool) -> str:
    """Compile IR to assembly. For the thread that uses LLVM."""
    module, tm = optimise(text, target, plain)
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


def stored(names: Iterable[str]) -> dict[str, bytes]:
    """The object files of kernels in the cache, by key; those that are not there or cannot be loaded are left out."""
    bodies = {name: body for name in names if (body := cache.read(name)) is not None}
    # all in one turn: each would wait longer for the thread than the thread works for it
    return llvm_thread.run(lambda: {name: body for name, body in bodies.items() if defines(body, f"k{name}")})


def compile_missing(
    missing: dict[str, Kernel], target: Target, found: Statistics, alone: bool
) -> Iterator[tuple[str, bytes]]:
    """Compile kernels, given by their keys, and count them: the object files, each after the symbol that it defines.

    alone: in this process only, one after another.
    """
    # no module of the user's is imported by other processes
    shared = {
        name
        for name, kernel in missing.items()
        if not (alone or any(map(outside_modules, (kernel, *kernel.functions))))
    }
    tasks = [
        Task(name, kernel.name, pool.message((name, kernel, target)) if name in shared else None)
        for name, kernel in missing.items()
    ]
    compilation = pool.Compilation(
        tasks,
        lambda task: stored([task.name]).get(task.name),
        lambda task: compile_kernel(missing[task.name], target, f"k{task.name}"),
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
        if symbol in code or name in missing:
            continue
        reference = None if show else _loaded.get(symbol)
        loaded = None if reference is None else reference()
        if loaded is not None:
            code[symbol] = loaded
        else:
            missing[name] = kernel
    for name, body in ({} if show else stored(missing)).items():
        fresh[f"k{name}"] = body
        del missing[name]
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
