"""From a Python function to machine code: the kernel language, the target, compilation, the cache on disk."""
