"""Where the time of a program goes."""

from foveal import debug
from foveal.peak import peak
from foveal.program import Program


def report(program: Program) -> None:
    """With DEBUG=2, the time and the share of peak of each group, once per program, after its first run."""
    if debug.level() < debug.TIME or program.reported:
        return
    program.reported = True
    most = peak(program.threads)
    lines = ["      ms   share  GFLOP/s  of peak  kernels: what they compute"]
    timings = program.timings()
    total = sum(t.seconds for t in timings)
    for t in sorted(timings, key=lambda t: -t.seconds):
        rate = t.flops / max(t.seconds, 1e-9) / 1e9
        speed = f"{rate:8.1f} {rate / most:8.0%}" if t.flops else " " * 17
        lines.append(f"{t.seconds * 1e3:8.3f} {t.seconds / total:7.1%} {speed}  {t.kernels}: {t.name}")
    debug.show(f"{total * 1e3:.2f} ms on {program.threads} thread(s), peak {most:.0f} GFLOP/s", "\n".join(lines))
