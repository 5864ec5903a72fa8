"""A compiling process: kernel descriptions come in on standard input, object files go out on what was standard output.

pool.py starts it and says why. Both directions have messages as `children.send` writes them. The first one out is the
digest of the sources that this process has imported. Then there is one for each that comes in: the object file, or
nothing if the kernel cannot be compiled here.
"""

import pickle

from foveal import children
from foveal.kernel.compile import Kernel, compile_kernel, key
from foveal.kernel.sources import imported_digest
from foveal.kernel.target import Target, assume


def serve() -> None:
    """Compile one kernel after another until standard input is closed. It then ends at once, whatever it is doing."""
    children.serve(compile_request, imported_digest().encode())


def compile_request(request: bytes) -> bytes:
    """Return the object file of a pickled (key, kernel, target), or nothing.

    The parent compiles itself what is not compiled here, and raises the error that this has.
    """
    try:
        parts: tuple[str, Kernel, Target] = pickle.loads(request)
        name, kernel, target = parts
        with assume(target):
            # the name says all that decides the code, so what arrived here is what was sent
            return compile_kernel(kernel, target, f"k{name}") if key(kernel, target) == name else b""
    except Exception:
        return b""
