"""Labels as rows that are 1 at the label and 0 elsewhere."""

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import Array, parallel, splat, vectors, where
from foveal.kernel.random import counters
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering
from foveal.view import View


def lower(lowering: Lowering, y: View, labels: View) -> None:
    """Call the kernel, which gets the number of labels from the call, on y [N, classes] in rows without gaps."""
    sizes = CallSizes()
    n = sizes.of(y.shape[0])
    specs = [ArraySpec((n, y.shape[1]), y.strides), ArraySpec((n,), labels.strides, "int32")]
    lowering.call(one_hot_rows, [y], [labels], specs=specs, sizes=sizes.values)


def one_hot_rows(y: Array, labels: Array) -> None:
    """y[n, k] = 1 where labels[n] = k, else 0, for any number of labels; y [N, classes] in rows without gaps."""
    N, classes = y.extents
    for (n,) in parallel(N):
        label = labels[n]
        # counters are the classes' numbers
        for k, width in vectors(classes):
            y.store((n, k), where(splat(label, width) == counters(k, width), 1.0, 0.0), width)
