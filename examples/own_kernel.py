"""A kernel of one's own: a moving average along the rows of an image, in the kernel language, looked at from all sides.

The same body runs as machine code, and in plain Python, where print and pdb work. foveal.kernel.lang explains the
language.
"""

import numpy as np

import foveal
from foveal.kernel import compile as kernels
from foveal.kernel.lang import parallel, var, vectors
from foveal.kernel.target import AVX2, NEON
from foveal.ops.op import Case, Operator

TAPS = 3


class MovingAverage(Operator):
    """y[h, w] = (x[h, w] + x[h + 1, w] + x[h + 2, w]) / 3, [H, W] -> [H - 2, W]"""

    name, arity, differentiable = "moving_average", 1, False
    cases = (Case(((5, 9),)), Case(((40, 33),)))

    def normalise(self, x):
        return {}

    def shape(self, x):
        return (x[0] - TAPS + 1, x[1])

    def numpy(self, x):
        return np.lib.stride_tricks.sliding_window_view(x, TAPS, axis=0).mean(axis=-1)

    def kernel(self, y, x):
        # Rows are shared among the threads.
        for (h,) in parallel(y.shape[0]):
            # Full vectors, then a narrower one for the tail.
            for w, width in vectors(y.shape[1]):
                # A register; range unrolls, so the loads follow each other.
                total = var(0.0, width)
                for r in range(TAPS):
                    total += x.load((h + r, w), width)
                y.store((h, w), total * (1 / TAPS), width)


average = MovingAverage()

x = np.random.default_rng(0).standard_normal((40, 33)).astype("float32")
program = foveal.compile(average).program(x)
np.testing.assert_allclose(program.run(x)[0], average(x), rtol=1e-5, atol=1e-6)
np.testing.assert_allclose(program.interpret(x)[0], average(x), rtol=1e-5, atol=1e-6)

(call,) = program.calls
for target in (AVX2, NEON):
    lines = kernels.assembly(call.kernel, target).splitlines()
    print(f"{target.name}: {target.lanes} lanes, {len(lines)} lines of assembly")
