"""How many iterations the parallel loops of a kernel have: what its calls can be divided into."""

from dataclasses import replace

from foveal.kernel.builder import CONTRACT, Builder
from foveal.kernel.compile import Kernel, Size, emit_body
from foveal.kernel.target import Target


def parallel_iterations(kernel: Kernel, sizes: tuple[int, ...], target: Target) -> tuple[int, ...]:
    """Return the iterations of each parallel loop of a kernel in a call that gives these sizes, shaped for a target.

    The body is built, but for what stands in these loops, which is nearly all.
    """

    def known(extents: tuple[int | Size, ...]) -> tuple[int, ...]:
        return tuple(sizes[n.index] if isinstance(n, Size) else n for n in extents)

    arrays = tuple(replace(spec, shape=known(spec.shape), strides=known(spec.strides)) for spec in kernel.arrays)
    static = tuple((name, sizes[n.index] if isinstance(n, Size) else n) for name, n in kernel.static)
    builder = Builder(kernel.name, target, CONTRACT)
    builder.counted = []
    emit_body(replace(kernel, arrays=arrays, static=static, sizes=0), builder)
    return tuple(builder.counted)
