"""The native loop that runs a program: every thread goes through all calls and meets the others at barriers.

A program is a table of records {kernel, arguments, barrier}. The barrier counts arrivals and turns a generation number; who
waits spins 2,000 pauses, then gives up its turn to the system, so that more threads than cores still make progress.
"""

from functools import cache
from typing import Any

from llvmlite import binding as llvm

from foveal.kernel.target import host, machine

PAUSE = {"x86_64": "pause", "aarch64": "yield", "arm64": "yield"}

SOURCE = """
declare i32 @sched_yield()
declare i64 @llvm.readcyclecounter()

%record = type {{ ptr, ptr, i64 }}

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
  %turn = phi i64 [ 0, %entry ], [ %next, %wait ]
  %next = add i64 %turn, 1
  call void asm sideeffect "{pause}", ""()
  %impatient = icmp ugt i64 %turn, 2000
  br i1 %impatient, label %yield, label %wait
yield:
  call i32 @sched_yield()
  br label %wait
wait:
  %after = load atomic i64, ptr %generation acquire, align 8
  %same = icmp eq i64 %before, %after
  br i1 %same, label %spin, label %done
done:
  ret void
}}

define void @foveal_run(ptr %records, i64 %n, i64 %thread, i64 %threads, ptr %count, ptr %times) {{
entry:
  %alone = icmp eq i64 %threads, 1
  %timed = icmp ne ptr %times, null
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
"""


@cache
def engine() -> Any:
    """The loop's machine code; compiled once per process (a few milliseconds)."""
    target = host()
    pause = PAUSE.get(target.triple.split("-")[0], "")
    module = llvm.parse_assembly(
        f'target triple = "{target.triple}"\n' + SOURCE.format(pause=pause)
    )
    module.verify()
    built = llvm.create_mcjit_compiler(module, machine(target))
    built.finalize_object()
    return built


def run_address() -> int:
    """Address of foveal_run(records, n, thread, threads, count, times)."""
    address: int = engine().get_function_address("foveal_run")
    return address
