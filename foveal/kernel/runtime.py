"""The native loop of native_loop.py as functions that Python calls: compiled once, kept in the cache, never freed."""

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache as memoise
from typing import Any

from llvmlite import binding as llvm

from foveal.kernel import cache, llvm_thread, native_loop, pool
from foveal.kernel.compile import defines
from foveal.kernel.sources import imported_digest
from foveal.kernel.target import Target, machine, used


def source() -> tuple[str, str]:
    """The IR of these functions, and its name in the cache, which is another one for other sources of Foveal."""
    target = used()
    text = native_loop.ir(target, sleeps(target))
    parts = text, target.identity, imported_digest()
    return text, hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


def sleeps(target: Target) -> bool:
    """True where threads sleep in the system's kernel; elsewhere an idle worker returns to Python and sleeps there."""
    return "linux" in target.triple and target.triple.split("-")[0] in native_loop.FUTEX


def prepare() -> None:
    """Start compiling processes before a network is traced, if all its kernels will have to be compiled.

    That is so where the cache has not even these functions, which all programs run by.
    """
    if not engine.cache_info().currsize and cache.read(source()[1]) is None:
        pool.prepare()


@memoise
def engine() -> llvm.ExecutionEngine:
    """The machine code of these functions, from the cache where it is there; else it is compiled in some milliseconds.

    Only the thread that uses LLVM calls this, so that there is never a second one. It is never freed: native threads
    run it until the process ends. LLVM's compiler, once used, keeps more memory than a small network has.
    """
    text, name = source()
    target, code = used(), cache.read(name)
    if code is None or not defines(code, "foveal_serve"):
        module = llvm.parse_assembly(text)
        module.verify()
        code = bytes(machine(target).emit_object(module))
        cache.write(name, code)
    loader = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine(target))
    loader.add_object_file(llvm.ObjectFileRef.from_data(code))
    loader.finalize_object()
    return loader


POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64


def function(name: str, result: type[ctypes.c_int64] | None, *kinds: type, locked: bool = False) -> Callable[..., Any]:
    """One of these functions, by its name without the prefix. locked: it runs with Python's lock held."""
    address = llvm_thread.run(lambda: int(engine().get_function_address(f"foveal_{name}")))
    return (ctypes.PYFUNCTYPE if locked else ctypes.CFUNCTYPE)(result, *kinds)(address)


@memoise
def alone(locked: bool = False) -> Callable[[int, int, int], None]:
    """alone(records, number, times): run records on this thread; times: of the first record, or 0."""
    return function("alone", None, POINTER, INTEGER, POINTER, locked=locked)


@memoise
def run() -> Callable[[int, int, int, int, int, int, int], int]:
    """run(block, boxes, threads, records, number, times, patience): run the records on the workers too.

    patience: how many pauses a thread waits before it sleeps. Gives 0 if another caller had the workers, so that this
    one ran alone, else 1.
    """
    return function("run", INTEGER, POINTER, POINTER, INTEGER, POINTER, INTEGER, POINTER, INTEGER)


@memoise
def serve() -> Callable[[int, int, int, int], None]:
    """serve(block, box, thread, patience): take part in the runs that a box tells of.

    It never returns, but where threads do not sleep in the system's kernel, and if another thread serves the box.
    """
    return function("serve", None, POINTER, POINTER, INTEGER, INTEGER)


@memoise
def pauses() -> Callable[[int], None]:
    """pauses(n): n pauses."""
    return function("pauses", None, INTEGER)
