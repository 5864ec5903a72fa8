"""Errors a user can mend. Each message names the thing, what is wrong with it and the way out.

The command line prints them without a traceback and exits with status 2; in a library they are ordinary exceptions.
"""


class FovealError(Exception):
    """Base of every error that is about what the caller gave, not about a fault in Foveal."""


class ShapeError(FovealError, ValueError):
    """Shapes, ranks, dtypes or hyper-parameters that do not fit together."""


class ArgumentError(FovealError, TypeError):
    """An argument that is missing, or that what is called does not take."""


class DataError(FovealError, ValueError):
    """A data set, file, label or image that cannot be used."""


class StateError(FovealError, ValueError):
    """Stored parameters that do not fit the model."""


class NumericsError(FovealError, ArithmeticError):
    """NaN or infinity in an input or in the loss."""


class KernelError(FovealError, TypeError):
    """A kernel body says something the kernel language cannot mean."""
