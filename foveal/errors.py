"""Errors that a user can fix. Each message names the thing, what is wrong with it and the way out.

The command line prints them without a traceback and exits with status 2; in a library they are ordinary exceptions.
FovealWarning, given through `warnings`, is for what goes on and may not be meant.
"""

import sys
import warnings


class FovealError(Exception):
    """Base of every error that comes from what the caller gave, and not from a fault in Foveal."""


class ShapeError(FovealError, ValueError):
    """Shapes, ranks, dtypes or hyper-parameters do not fit together."""


class ArgumentError(FovealError, TypeError):
    """An argument that is missing, or that what is called does not take."""


class PlaceError(FovealError, IndexError):
    """There is nothing at a place of a container."""


class DataError(FovealError, ValueError):
    """A data set, file, label or image cannot be used."""


class StateError(FovealError, ValueError):
    """Stored parameters do not fit the model."""


class NumericsError(FovealError, ArithmeticError):
    """An input, the loss, or what a step would write holds NaN or infinity."""


class CallbackError(FovealError, RuntimeError):
    """A callback of a training raised an error, which is this one's cause."""


class PackageError(FovealError, ImportError):
    """A package that an extra of Foveal brings is not installed."""


class RankError(FovealError, RuntimeError):
    """The ranks of a training cannot work together: one does not answer, or has other data, code or settings."""


class RanksLost(RankError):
    """Ranks are gone, and those that are left can take the step again, of which nothing was carried out."""


class Terminated(SystemExit):
    """SIGTERM has ended a training. Not caught, it ends the process with 143, 128 + SIGTERM, as shells count."""

    def __init__(self, text: str = "Terminated") -> None:
        super().__init__(143)
        self.text = text

    def __str__(self) -> str:
        return self.text


class FovealWarning(UserWarning):
    """Something that goes on and that the caller may not have meant."""


class KernelError(FovealError, TypeError):
    """A kernel body says something the kernel language cannot mean."""


def warn(message: str) -> None:
    """Give a FovealWarning that points at the line outside of this package which led to it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "foveal":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, FovealWarning, stacklevel=level)
