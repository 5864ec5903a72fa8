"""From a Python function to machine code.

In the order in which they import each other:

| file | what it is for |
| --- | --- |
| llvm_thread.py | the one thread that uses LLVM, so that no interruption falls inside of llvmlite |
| sources.py | digests of the sources that decide generated code, as they were imported |
| target.py | what this CPU has, or another one that is assumed: lanes, registers, caches |
| interpret.py | the language's other meaning, plain Python on NumPy values; how to find what is wrong in a kernel |
| ir.py | LLVM's IR as text: instructions, known numbers, what is computed once and before loops |
| flow.py | loops, branches and registers of a function under construction |
| builder.py | one kernel under construction: the function that instructions go into; the scalar types |
| values.py | what bodies compute with while they are built: SSA values and registers |
| vector.py | functions of values: `where`, `maximum`, `cast`, lanes taken apart and put together |
| array.py | arrays: a pointer with a shape and strides, indexed logically |
| lang.py | the kernel language: loops, branches, sharing among threads; kernels import all they use from here |
| maths.py | exp, log, tanh, erf and others, written in the language |
| circular.py | sin, cos, tan and powers |
| random.py | counter-based random numbers (Philox), written in the language |
| cache.py | machine code on disk, shared by all processes of a user |
| bundle.py | kernels in one signed file, for other machines of the same type |
| progress.py | what a person sees of a long compilation |
| pool.py | several processes compile at once: which kernel where, and what becomes of those that end |
| compile.py | body + shapes -> LLVM IR -> machine code |
| counting.py | how many iterations the parallel loops of a kernel have |
| listing.py | the innermost loops of assembly |
| worker.py | a compiling process |
| native_loop.py | the native loop that runs a program's kernels, in LLVM's IR: how threads come to it, wait and sleep |
| runtime.py | that loop compiled and loaded: the functions that Python calls |

State that is not passed as an argument, each piece explained where it is declared. By thread: the kernel being built
(`_local` in builder.py) and the target assumed (`_local` in target.py). By process: the thread that uses LLVM (`_state`
in llvm_thread.py), compiling processes, their numbers and what was said of them (`_running`, `_numbers`, `_said` in
pool.py), kernels in memory and how many of them were compiled (`_loaded`, `statistics` in compile.py), bytes written to
the cache and what is known of its folder (`_written`, `_reported`, `_reached_safely` in cache.py), digests of sources
(`_digest`, `_outside` in sources.py), and what is computed once and stays the same (functions under `functools.cache`:
this machine, what FOVEAL_TARGET made of it, LLVM's set-up, the native loop). None of it decides results, but for the
target, which decides how sums are cut.
"""

# imported before anything that it takes the digest of
from foveal.kernel import sources as sources
