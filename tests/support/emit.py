"""Assembly of kernels for any target, as a script, because what LLVM cannot emit ends the process.

`python emit.py NEON ...`: as JSON, per target and per name of GRAPHS the assembly of each kernel it is lowered to.
"""

import json
import sys

from foveal import ops
from foveal.build import kernels_of
from foveal.kernel import target as targets
from foveal.kernel.compile import assembly
from foveal.ops.op import Type
from foveal.trace import trace

IMAGES, FILTERS = Type((2, 64, 24, 24)), Type((64, 64, 3, 3))  # rows of two full tiles or more
COLOUR = Type((2, 3, 24, 24))
GRAPHS = {
    "convolution": (lambda x, w: ops.conv2d(x, w, padding=2, dilation=2), IMAGES, FILTERS),
    "minimal filtering": (lambda x, w: ops.conv2d(x, w, padding=1), IMAGES, FILTERS),
    "strided convolution": (lambda x, w: ops.conv2d(x, w, padding=1, stride=2), IMAGES, FILTERS),
    "convolution of 3 channels": (ops.conv2d, COLOUR, Type((64, 3, 5, 5))),
    "1x1 convolution": (ops.conv2d, IMAGES, Type((64, 64, 1, 1))),
    "weight gradient": (lambda dy, x: ops.conv2d_weight_grad(dy, x, kernel_size=(5, 5), padding=2), IMAGES, IMAGES),
    "weight gradient by minimal filtering": (
        lambda dy, x: ops.conv2d_weight_grad(dy, x, kernel_size=(3, 3), padding=1),
        IMAGES,
        IMAGES,
    ),
    "matmul": (ops.matmul, Type((96, 80)), Type((80, 96))),
    "pointwise": (lambda a, b, c: ops.relu(a * b + c), *[Type((4096,))] * 3),
    "reduction": (lambda a, b: ops.sum(a * b, axes=(0, 2, 3)), IMAGES, IMAGES),
}


def emitted(target: targets.Target) -> dict[str, list[str]]:
    with targets.assume(target):
        return {
            name: [assembly(kernel, target) for kernel in kernels_of(trace(function, *types))]
            for name, (function, *types) in GRAPHS.items()
        }


if __name__ == "__main__":
    json.dump({name: emitted(getattr(targets, name)) for name in sys.argv[1:]}, sys.stdout)
