"""The native loop that runs a program: every thread goes through all calls and meets the others at barriers.

A program is a table of records {kernel, arguments, barrier}. The barrier counts arrivals; the last thread to arrive
resets the count and increases a generation number, which the others watch. A thread that waits spins for 100 pauses
(some 10 us), then yields its processor to the system again and again, so that threads that share a processor with
others still make progress.

Threads are handed jobs through boxes in memory, one per thread, since waking a thread by a Python lock takes 50 us and
more. A job is a function of the same kind as a kernel, (arguments, thread, threads). A box counts the jobs put into it
and the jobs done. Between two jobs its thread watches it for a while, then writes into the box that it goes to sleep;
Python puts it to sleep and wakes it.

The functions are written as LLVM IR, not in the kernel language, since they call functions by address and need atomic
operations in a certain order:

foveal_run     a thread's way through a program
foveal_serve   a worker thread's loop: do the jobs put into its box, until none has come for a while
foveal_start   the caller's part: put a job into every box, and if no thread sleeps, do its own share and wait
foveal_finish  the caller's own share and the wait alone, for after it has woken threads that slept

Layouts in memory, in 8-byte words:

record   kernel, arguments, 1 if a barrier follows
program  records, their number, the barrier's count (its generation 64 bytes further on), times or 0
box      jobs put in, function, arguments, threads, 4 unused; then, on a line of their own: jobs done, asleep, 6 unused
"""

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache as memoise

from llvmlite import binding as llvm

from foveal.kernel import cache, llvm_thread, pool
from foveal.kernel.compile import defines
from foveal.kernel.sources import imported_digest
from foveal.kernel.target import host, machine

# the instruction that a waiting loop executes, by architecture: it leaves the core's units to the other hardware thread
PAUSE = {"x86_64": "pause", "aarch64": "yield", "arm64": "yield"}
# two lines of cache: what the caller writes, and what the thread writes
BOX_BYTES = 128

SOURCE = """
declare i32 @sched_yield()
declare i64 @llvm.readcyclecounter()

%record = type {{ ptr, ptr, i64 }}
%program = type {{ ptr, i64, ptr, ptr }}
%box = type {{ i64, ptr, ptr, i64, [4 x i64], i64, i64, [6 x i64] }}

define internal void @wait(i64 %turn) alwaysinline {{
  call void asm sideeffect "{pause}", ""()
  %impatient = icmp ugt i64 %turn, 100
  br i1 %impatient, label %yield, label %end
yield:
  call i32 @sched_yield()
  br label %end
end:
  ret void
}}

define internal void @barrier(ptr %count, i64 %threads) noinline {{
entry:
  %generation = getelementptr i8, ptr %count, i64 64
  %before = load atomic i64, ptr %generation acquire, align 8
  %arrived = atomicrmw add ptr %count, i64 1 acq_rel
  %now = add i64 %arrived, 1
  %last = icmp eq i64 %now, %threads
  br i1 %last, label %release, label %spin
release:
  store atomic i64 0, ptr %count monotonic, align 8
  atomicrmw add ptr %generation, i64 1 release
  ret void
spin:
  %turn = phi i64 [ 0, %entry ], [ %next, %spin ]
  %next = add i64 %turn, 1
  call void @wait(i64 %turn)
  %after = load atomic i64, ptr %generation acquire, align 8
  %same = icmp eq i64 %before, %after
  br i1 %same, label %spin, label %done
done:
  ret void
}}

define void @foveal_run(ptr %program, i64 %thread, i64 %threads) {{
entry:
  %records = load ptr, ptr %program
  %p_n = getelementptr %program, ptr %program, i64 0, i32 1
  %n = load i64, ptr %p_n
  %p_count = getelementptr %program, ptr %program, i64 0, i32 2
  %count = load ptr, ptr %p_count
  %p_times = getelementptr %program, ptr %program, i64 0, i32 3
  %times = load ptr, ptr %p_times
  %alone = icmp eq i64 %threads, 1
  %first = icmp eq i64 %thread, 0
  %wanted = icmp ne ptr %times, null
  %timed = and i1 %first, %wanted
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %step ]
  %record = getelementptr %record, ptr %records, i64 %i
  %kernel = load ptr, ptr %record
  %p1 = getelementptr %record, ptr %records, i64 %i, i32 1
  %arguments = load ptr, ptr %p1
  %p2 = getelementptr %record, ptr %records, i64 %i, i32 2
  %meet = load i64, ptr %p2
  call void %kernel(ptr %arguments, i64 %thread, i64 %threads)
  %free = icmp eq i64 %meet, 0
  %skip = or i1 %alone, %free
  br i1 %skip, label %clock, label %sync
sync:
  call void @barrier(ptr %count, i64 %threads)
  br label %clock
clock:
  br i1 %timed, label %stamp, label %step
stamp:
  %now = call i64 @llvm.readcyclecounter()
  %slot = getelementptr i64, ptr %times, i64 %i
  store i64 %now, ptr %slot
  br label %step
step:
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %end
end:
  ret void
}}

define internal void @work(ptr %box, i64 %thread) noinline {{
  %p_function = getelementptr %box, ptr %box, i64 0, i32 1
  %function = load ptr, ptr %p_function
  %p_arguments = getelementptr %box, ptr %box, i64 0, i32 2
  %arguments = load ptr, ptr %p_arguments
  %p_threads = getelementptr %box, ptr %box, i64 0, i32 3
  %threads = load i64, ptr %p_threads
  call void %function(ptr %arguments, i64 %thread, i64 %threads)
  %jobs = load i64, ptr %box
  %p_done = getelementptr %box, ptr %box, i64 0, i32 5
  store atomic i64 %jobs, ptr %p_done release, align 8
  ret void
}}

define internal i1 @idle(ptr %box) alwaysinline {{
  %jobs = load atomic i64, ptr %box seq_cst, align 8
  %p_done = getelementptr %box, ptr %box, i64 0, i32 5
  %done = load atomic i64, ptr %p_done acquire, align 8
  %same = icmp eq i64 %jobs, %done
  ret i1 %same
}}

define void @foveal_serve(ptr %box, i64 %thread, i64 %patience) {{
entry:
  %p_asleep = getelementptr %box, ptr %box, i64 0, i32 6
  br label %awake
awake:
  atomicrmw xchg ptr %p_asleep, i64 0 seq_cst
  br label %look
look:
  %turn = phi i64 [ 0, %awake ], [ 0, %job ], [ %next, %watch ]
  %none = call i1 @idle(ptr %box)
  br i1 %none, label %watch, label %job
job:
  call void @work(ptr %box, i64 %thread)
  br label %look
watch:
  call void @wait(i64 %turn)
  %next = add i64 %turn, 1
  %more = icmp ult i64 %next, %patience
  br i1 %more, label %look, label %tired
tired:
  atomicrmw xchg ptr %p_asleep, i64 1 seq_cst
  %still = call i1 @idle(ptr %box)
  br i1 %still, label %end, label %awake
end:
  ret void
}}

define void @foveal_finish(ptr %boxes, i64 %threads) {{
entry:
  %own = load ptr, ptr %boxes
  %worked = call i1 @idle(ptr %own)
  br i1 %worked, label %others, label %work
work:
  call void @work(ptr %own, i64 0)
  br label %others
others:
  %thread = phi i64 [ 0, %entry ], [ 0, %work ], [ %thread, %spin ], [ %following, %met ]
  %turn = phi i64 [ 0, %entry ], [ 0, %work ], [ %next, %spin ], [ 0, %met ]
  %slot = getelementptr ptr, ptr %boxes, i64 %thread
  %box = load ptr, ptr %slot
  %finished = call i1 @idle(ptr %box)
  br i1 %finished, label %met, label %spin
spin:
  call void @wait(i64 %turn)
  %next = add i64 %turn, 1
  br label %others
met:
  %following = add i64 %thread, 1
  %more = icmp ult i64 %following, %threads
  br i1 %more, label %others, label %end
end:
  ret void
}}

define i64 @foveal_start(ptr %boxes, i64 %threads, ptr %function, ptr %arguments) {{
entry:
  br label %put
put:
  %thread = phi i64 [ 0, %entry ], [ %following, %put ]
  %sleepers = phi i64 [ 0, %entry ], [ %sum, %put ]
  %slot = getelementptr ptr, ptr %boxes, i64 %thread
  %box = load ptr, ptr %slot
  %p_function = getelementptr %box, ptr %box, i64 0, i32 1
  store ptr %function, ptr %p_function
  %p_arguments = getelementptr %box, ptr %box, i64 0, i32 2
  store ptr %arguments, ptr %p_arguments
  %p_threads = getelementptr %box, ptr %box, i64 0, i32 3
  store i64 %threads, ptr %p_threads
  atomicrmw add ptr %box, i64 1 seq_cst
  %p_asleep = getelementptr %box, ptr %box, i64 0, i32 6
  %asleep = load atomic i64, ptr %p_asleep seq_cst, align 8
  %sum = add i64 %sleepers, %asleep
  %following = add i64 %thread, 1
  %more = icmp ult i64 %following, %threads
  br i1 %more, label %put, label %all
all:
  %awake = icmp eq i64 %sum, 0
  br i1 %awake, label %finish, label %end
finish:
  call void @foveal_finish(ptr %boxes, i64 %threads)
  br label %end
end:
  ret i64 %sum
}}
"""


def source() -> tuple[str, str]:
    """The IR of these functions, and its name in the cache, which is another one for other sources of Foveal."""
    target = host()
    pause = PAUSE.get(target.triple.split("-")[0], "")
    text = f'target triple = "{target.triple}"\n' + SOURCE.format(pause=pause)
    parts = text, target.identity, imported_digest()
    return text, hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


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
    target, code = host(), cache.read(name)
    if code is None or not defines(code, "foveal_start"):
        module = llvm.parse_assembly(text)
        module.verify()
        code = bytes(machine(target).emit_object(module))
        cache.write(name, code)
    loader = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine(target))
    loader.add_object_file(llvm.ObjectFileRef.from_data(code))
    loader.finalize_object()
    return loader


@memoise
def address(name: str) -> int:
    """The address of one of these functions: run, serve, start, finish."""
    return llvm_thread.run(lambda: int(engine().get_function_address(f"foveal_{name}")))


def job(function: int) -> Callable[[int, int, int], None]:
    """The function at an address, to be called as kernels are: (arguments, thread, threads)."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(function)


@memoise
def run() -> Callable[[int, int, int], None]:
    """run(program, thread, threads): a thread's way through all calls; program: the address of its four words."""
    return job(address("run"))


@memoise
def serve() -> Callable[[int, int, int], None]:
    """serve(box, thread, patience): do the jobs put into a box, until it was looked at `patience` times in vain."""
    return job(address("serve"))


@memoise
def start() -> Callable[[int, int, int, int], int]:
    """start(boxes, threads, function, arguments): put a job into the boxes; gives how many threads have to be woken.

    If none has to be, the job is done as well when it returns.
    """
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    return ctypes.CFUNCTYPE(integer, pointer, integer, pointer, pointer)(address("start"))


@memoise
def finish() -> Callable[[int, int], None]:
    """finish(boxes, threads): do the caller's own share of a job, unless it is done, then wait for the others."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address("finish"))
