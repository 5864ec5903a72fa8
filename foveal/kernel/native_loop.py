"""The native loop that runs a program: threads that come take work, and nobody waits for one that does not come.

A program is a table of records {kernel, arguments, barrier}. The calls up to a barrier are a section. Threads enter a
section, go through its calls, of which each takes pieces of work as long as there are some, and leave it. Whoever has
gone through the whole section knows that all its work has been taken, and closes it: nobody enters any more. When the
last one leaves, all of it has been done, and that thread opens the next section and is the first in it. So a thread
that the system has put aside is waited for only while it is inside of a section, where it may hold a piece. One that
has not entered is waited for by nobody: the others do its work, and it goes on with whichever section is open when it
comes back. The caller is thread 0 and could do everything alone. When it returns, nobody is inside, and nobody reads
the program's memory any more.

All of that is decided by one word, the state, which only changes by compare-and-swap:

bits 0 to 12    how many threads are inside of the section
bit 13          the section is closed
bits 14 to 31   the number of its first record; all ones, and closed, when the run is over
bits 32 to 63   the section's own number, which goes up by one from section to section and from run to run

A thread that enters has seen the same state before and after it has read how many threads the run has, and reads all
else of the run when it is inside.

Who waits for a section to end looks at the state for some pauses, then sleeps in the system's kernel (Linux: futex)
until the section's number changes; elsewhere it yields its processor again and again. It never yields before it sleeps:
on a busy machine that would give the rest of its time slice away.

Worker threads are told of a run through boxes in memory, one per thread, since waking a thread by a Python lock takes
50 us and more. Between two runs a worker watches its box for a while, then it writes into the box that it sleeps.

One thread at a time calls on the workers. Another one that comes meanwhile runs its program alone.

The functions are written as LLVM IR, not in the kernel language, since they call functions by address and need atomic
operations in a certain order (runtime.py compiles and loads them):

foveal_alone   a program on the caller's thread alone
foveal_run     the caller's part of a run: tell the workers, then take part until the run is over
foveal_serve   a worker thread's loop: take part in the runs that its box tells of
foveal_pauses  so many pauses, to measure how long one takes

Layouts in memory, in 8-byte words; a line of cache has 8:

record   kernel, arguments, 1 if a barrier follows
times    the clock at the beginning; then of each record, 0 before a run: after it, the sum of all threads', their count
block    of the workers: a line for the state, one for whether a caller has them, one for how many threads sleep until
         the section ends, and one for the run: threads, records, their number, times or 0
box      of a worker: runs that it was told of, 1 while it sleeps, 1 when it has a thread
"""

from foveal.kernel.target import Target

# the instruction that a waiting loop executes, by architecture: it leaves the core's units to the other hardware thread
PAUSE = {"x86_64": "pause", "aarch64": "yield", "arm64": "yield"}
# the number of Linux's system call futex, by architecture
FUTEX = {"x86_64": 202, "aarch64": 98}
# bytes of the block, and of a box, which has a line of cache for itself
BLOCK_BYTES = 4 * 64
BOX_BYTES = 64
# the state between two runs; and how many calls a run can have, since their numbers have 18 bits
OVER = 0xFFFFE000
MAX_CALLS = (1 << 18) - 1

SLEEP_IN_FUTEX = """
declare i64 @syscall(i64, ...)

define internal void @sleep(ptr %word, i32 %seen) noinline {{
  %number = zext i32 %seen to i64
  call i64 (i64, ...) @syscall(i64 {futex}, ptr %word, i64 128, i64 %number, ptr null)
  ret void
}}

define internal void @wake(ptr %word) noinline {{
  call i64 (i64, ...) @syscall(i64 {futex}, ptr %word, i64 129, i64 2147483647)
  ret void
}}
"""
YIELD_INSTEAD = """
declare i32 @sched_yield()

define internal void @sleep(ptr %word, i32 %seen) noinline {{
  call i32 @sched_yield()
  ret void
}}

define internal void @wake(ptr %word) noinline {{
  ret void
}}
"""
# what an idle worker does, by whether it sleeps in the system's kernel, and what a caller does that finds it asleep;
# one that sleeps in Python is so until it has come back from there
REST = {
    True: "call void @sleep(ptr %p_asleep, i32 1)\n  br label %check",
    False: "store atomic i64 0, ptr %p_served seq_cst, align 8\n  ret void",
}
ROUSE = {
    True: "atomicrmw xchg ptr %p_asleep, i64 0 seq_cst\n  call void @wake(ptr %p_asleep)\n  br label %told",
    False: "br label %told",
}

SOURCE = """
declare i64 @llvm.readcyclecounter()

%record = type {{ ptr, ptr, i64 }}
%block = type {{ i64, [7 x i64], i64, [7 x i64], i64, [7 x i64], i64, ptr, i64, ptr, [4 x i64] }}
%box = type {{ i64, i64, i64, [5 x i64] }}

define internal void @pause() alwaysinline {{
  call void asm sideeffect "{pause}", ""()
  ret void
}}

; the clock after a call: that of the last thread, the sum of all threads', and how many these are
define internal void @stamp(ptr %times, i64 %i) noinline {{
  %now = call i64 @llvm.readcyclecounter()
  %last = getelementptr [3 x i64], ptr %times, i64 %i
  store atomic i64 %now, ptr %last monotonic, align 8
  %sum = getelementptr [3 x i64], ptr %times, i64 %i, i64 1
  atomicrmw add ptr %sum, i64 %now monotonic
  %count = getelementptr [3 x i64], ptr %times, i64 %i, i64 2
  atomicrmw add ptr %count, i64 1 monotonic
  ret void
}}

; the clock at the beginning, if it is 0: else it is that after the record before the first one of this run
define internal void @begin(ptr %times) noinline {{
  %timed = icmp ne ptr %times, null
  br i1 %timed, label %stamp, label %end
end:
  ret void
stamp:
  %now = call i64 @llvm.readcyclecounter()
  %slot = getelementptr [3 x i64], ptr %times, i64 -1
  cmpxchg ptr %slot, i64 0, i64 %now monotonic monotonic
  ret void
}}

; wait until the number of the section is not `seen`
define internal void @wait(ptr %block, i32 %seen, i64 %patience) noinline {{
entry:
  %p_number = getelementptr i8, ptr %block, i64 4
  br label %look
look:
  %turn = phi i64 [ 0, %entry ], [ %next, %spin ]
  %number = load atomic i32, ptr %p_number acquire, align 4
  %same = icmp eq i32 %number, %seen
  br i1 %same, label %more, label %awake
more:
  %next = add i64 %turn, 1
  %patient = icmp ult i64 %next, %patience
  br i1 %patient, label %spin, label %tired
spin:
  call void @pause()
  br label %look
tired:
  %p_sleepers = getelementptr %block, ptr %block, i64 0, i32 4
  atomicrmw add ptr %p_sleepers, i64 1 seq_cst
  call void @sleep(ptr %p_number, i32 %seen)
  atomicrmw sub ptr %p_sleepers, i64 1 seq_cst
  %later = load atomic i32, ptr %p_number acquire, align 4
  %still = icmp eq i32 %later, %seen
  br i1 %still, label %tired, label %awake
awake:
  ret void
}}

; wake those that sleep until the section ends, after its end; each of them counts itself, and nobody else does, since
; this thread may be put aside here until others sleep for the end of a later section
define internal void @wake_all(ptr %block) alwaysinline {{
  %p_sleepers = getelementptr %block, ptr %block, i64 0, i32 4
  %sleepers = load atomic i64, ptr %p_sleepers seq_cst, align 8
  %none = icmp eq i64 %sleepers, 0
  br i1 %none, label %end, label %some
some:
  %p_number = getelementptr i8, ptr %block, i64 4
  call void @wake(ptr %p_number)
  br label %end
end:
  ret void
}}

; take part until the run is over, or another one is going on that has fewer threads; inside: this thread has entered
; the first section already
define internal void @take_part(ptr %block, i64 %thread, i64 %patience, i1 %inside) noinline {{
entry:
  %p_threads = getelementptr %block, ptr %block, i64 0, i32 6
  %p_records = getelementptr %block, ptr %block, i64 0, i32 7
  %p_n = getelementptr %block, ptr %block, i64 0, i32 8
  %p_times = getelementptr %block, ptr %block, i64 0, i32 9
  br i1 %inside, label %section, label %look

look:
  %state = load atomic i64, ptr %block acquire, align 8
  %low = trunc i64 %state to i32
  %p_closed = and i32 %low, 8192
  %open = icmp eq i32 %p_closed, 0
  br i1 %open, label %opened, label %closed
closed:
  %over = icmp eq i32 %low, {over}
  br i1 %over, label %end, label %wait
opened:
  %members = load atomic i64, ptr %p_threads monotonic, align 8
  %member = icmp ult i64 %thread, %members
  br i1 %member, label %enter, label %end
enter:
  %more_inside = add i64 %state, 1
  %entering = cmpxchg ptr %block, i64 %state, i64 %more_inside acq_rel acquire
  %entered = extractvalue {{ i64, i1 }} %entering, 1
  %index32 = lshr i32 %low, 14
  %index = zext i32 %index32 to i64
  br i1 %entered, label %section, label %look

section:
  %first = phi i64 [ 0, %entry ], [ %index, %enter ], [ %next, %ended ]
  ; the run's own words are read only inside of a section: afterwards they may be those of another one
  %threads = load atomic i64, ptr %p_threads monotonic, align 8
  %records = load atomic ptr, ptr %p_records monotonic, align 8
  %n = load atomic i64, ptr %p_n monotonic, align 8
  %times = load atomic ptr, ptr %p_times monotonic, align 8
  %timed = icmp ne ptr %times, null
  br label %call
call:
  %i = phi i64 [ %first, %section ], [ %next, %called ]
  %record = getelementptr %record, ptr %records, i64 %i
  %kernel = load ptr, ptr %record
  %p1 = getelementptr %record, ptr %records, i64 %i, i32 1
  %arguments = load ptr, ptr %p1
  %p2 = getelementptr %record, ptr %records, i64 %i, i32 2
  %barrier = load i64, ptr %p2
  call void %kernel(ptr %arguments, i64 %thread, i64 %threads)
  br i1 %timed, label %stamp, label %called
stamp:
  call void @stamp(ptr %times, i64 %i)
  br label %called
called:
  %next = add i64 %i, 1
  %last = icmp uge i64 %next, %n
  %meet = icmp ne i64 %barrier, 0
  %leaves = or i1 %last, %meet
  br i1 %leaves, label %leave, label %call

leave:
  ; what the last one to leave opens: the next section, which it is in, or none
  %next_place = shl i64 %next, 14
  %opening = or i64 %next_place, 1
  %following = select i1 %last, i64 {over}, i64 %opening
  %now = load atomic i64, ptr %block monotonic, align 8
  br label %try
try:
  %held = phi i64 [ %now, %leave ], [ %found, %try ]
  %count = and i64 %held, 8191
  %alone = icmp eq i64 %count, 1
  %number = and i64 %held, -4294967296
  %next_number = add i64 %number, 4294967296
  %advance = or i64 %next_number, %following
  %fewer_inside = sub i64 %held, 1
  %close = or i64 %fewer_inside, 8192
  %new = select i1 %alone, i64 %advance, i64 %close
  %leaving = cmpxchg ptr %block, i64 %held, i64 %new seq_cst seq_cst
  %found = extractvalue {{ i64, i1 }} %leaving, 0
  %left = extractvalue {{ i64, i1 }} %leaving, 1
  br i1 %left, label %outside, label %try
outside:
  br i1 %alone, label %ended, label %wait
ended:
  call void @wake_all(ptr %block)
  br i1 %last, label %end, label %section

wait:
  %seen_state = phi i64 [ %state, %closed ], [ %new, %outside ]
  %seen_high = lshr i64 %seen_state, 32
  %seen = trunc i64 %seen_high to i32
  call void @wait(ptr %block, i32 %seen, i64 %patience)
  br label %look

end:
  ret void
}}
define void @foveal_alone(ptr %records, i64 %n, ptr %times) {{
entry:
  call void @begin(ptr %times)
  %timed = icmp ne ptr %times, null
  br label %call
call:
  %i = phi i64 [ 0, %entry ], [ %next, %called ]
  %record = getelementptr %record, ptr %records, i64 %i
  %kernel = load ptr, ptr %record
  %p1 = getelementptr %record, ptr %records, i64 %i, i32 1
  %arguments = load ptr, ptr %p1
  call void %kernel(ptr %arguments, i64 0, i64 1)
  br i1 %timed, label %stamp, label %called
stamp:
  call void @stamp(ptr %times, i64 %i)
  br label %called
called:
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %call, label %end
end:
  ret void
}}

define i64 @foveal_run(ptr %block, ptr %boxes, i64 %threads, ptr %records, i64 %n, ptr %times, i64 %patience) {{
entry:
  %p_taken = getelementptr %block, ptr %block, i64 0, i32 2
  %taking = cmpxchg ptr %p_taken, i64 0, i64 1 seq_cst seq_cst
  %mine = extractvalue {{ i64, i1 }} %taking, 1
  br i1 %mine, label %begin, label %without
without:
  call void @foveal_alone(ptr %records, i64 %n, ptr %times)
  ret i64 0
begin:
  call void @begin(ptr %times)
  %p_threads = getelementptr %block, ptr %block, i64 0, i32 6
  store atomic i64 %threads, ptr %p_threads monotonic, align 8
  %p_records = getelementptr %block, ptr %block, i64 0, i32 7
  store atomic ptr %records, ptr %p_records monotonic, align 8
  %p_n = getelementptr %block, ptr %block, i64 0, i32 8
  store atomic i64 %n, ptr %p_n monotonic, align 8
  %p_times = getelementptr %block, ptr %block, i64 0, i32 9
  store atomic ptr %times, ptr %p_times monotonic, align 8
  ; nobody else changes the state between two runs
  %before = load atomic i64, ptr %block acquire, align 8
  %number = and i64 %before, -4294967296
  %next_number = add i64 %number, 4294967296
  ; the first section, which this thread is inside of
  %state = or i64 %next_number, 1
  store atomic i64 %state, ptr %block seq_cst, align 8
  br label %tell
tell:
  %thread = phi i64 [ 1, %begin ], [ %following, %told ]
  %some = icmp ult i64 %thread, %threads
  br i1 %some, label %another, label %work
another:
  %told_box = getelementptr %box, ptr %boxes, i64 %thread
  atomicrmw add ptr %told_box, i64 1 seq_cst
  %p_asleep = getelementptr %box, ptr %boxes, i64 %thread, i32 1
  %asleep = load atomic i64, ptr %p_asleep seq_cst, align 8
  %sleeps = icmp ne i64 %asleep, 0
  br i1 %sleeps, label %rouse, label %told
rouse:
  {rouse}
told:
  %following = add i64 %thread, 1
  br label %tell
work:
  call void @take_part(ptr %block, i64 0, i64 %patience, i1 true)
  store atomic i64 0, ptr %p_taken seq_cst, align 8
  ret i64 1
}}

define void @foveal_serve(ptr %block, ptr %box, i64 %thread, i64 %patience) {{
entry:
  %p_asleep = getelementptr %box, ptr %box, i64 0, i32 1
  %p_served = getelementptr %box, ptr %box, i64 0, i32 2
  %serving = cmpxchg ptr %p_served, i64 0, i64 1 seq_cst seq_cst
  %mine = extractvalue {{ i64, i1 }} %serving, 1
  br i1 %mine, label %begin, label %end
begin:
  store atomic i64 0, ptr %p_asleep seq_cst, align 8
  br label %look
look:
  %known = phi i64 [ 0, %begin ], [ %runs, %job ], [ %known, %watch ], [ %known, %rise ]
  %turn = phi i64 [ 0, %begin ], [ 0, %job ], [ %next, %watch ], [ 0, %rise ]
  %runs = load atomic i64, ptr %box seq_cst, align 8
  %none = icmp eq i64 %runs, %known
  br i1 %none, label %watch, label %job
job:
  call void @take_part(ptr %block, i64 %thread, i64 %patience, i1 false)
  br label %look
watch:
  call void @pause()
  %next = add i64 %turn, 1
  %more = icmp ult i64 %next, %patience
  br i1 %more, label %look, label %tired
tired:
  atomicrmw xchg ptr %p_asleep, i64 1 seq_cst
  %later = load atomic i64, ptr %box seq_cst, align 8
  %still = icmp eq i64 %later, %known
  br i1 %still, label %rest, label %rise
rest:
  {rest}
check:
  %flag = load atomic i64, ptr %p_asleep acquire, align 8
  %sleeping = icmp ne i64 %flag, 0
  br i1 %sleeping, label %rest, label %rise
rise:
  atomicrmw xchg ptr %p_asleep, i64 0 seq_cst
  br label %look
end:
  ret void
}}

define void @foveal_pauses(i64 %n) {{
entry:
  br label %pause
pause:
  %i = phi i64 [ 0, %entry ], [ %next, %pause ]
  call void @pause()
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %pause, label %end
end:
  ret void
}}
"""


def ir(target: Target, sleeps: bool) -> str:
    """The functions' IR for a target. sleeps: whether threads sleep in the system's kernel."""
    architecture = target.triple.split("-")[0]
    sleep = SLEEP_IN_FUTEX.format(futex=FUTEX[architecture]) if sleeps else YIELD_INSTEAD.format()
    code = SOURCE.format(pause=PAUSE.get(architecture, ""), over=OVER, rest=REST[sleeps], rouse=ROUSE[sleeps])
    return f'target triple = "{target.triple}"\n' + sleep + code
