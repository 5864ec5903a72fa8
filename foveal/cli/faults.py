"""What a command ends with: one message on standard error and a status, whatever went wrong.

0    all went well
1    a fault in Foveal, or a machine on which its self-test fails; `predict`: some of the images cannot be read
2    what was given cannot be used, memory or disk do not suffice, or standard output cannot be written
130  interrupted by Ctrl-C (128 + SIGINT, as shells count)
143  a training that SIGTERM has ended, after it has saved its state (128 + SIGTERM)
141  nobody reads standard output any more, such as after `| head` (128 + SIGPIPE); training goes on instead

With --json it is the same: errors are no JSON, standard output stays empty, and the status tells.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from foveal import debug
from foveal.cli.options import echo
from foveal.errors import FovealError, Terminated
from foveal.names import printable

FAULT, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143


@contextmanager
def one_message(ctx: click.Context) -> Iterator[None]:
    """Convert what is raised inside of the block into one message and an exit of the context."""
    try:
        yield
    except click.UsageError as error:
        # click prints it, with the words that were typed.
        message = error.format_message()
        if message == printable(message):
            raise
        raise click.UsageError(printable(message), error.ctx) from None
    # These are click's own, which it prints itself.
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except FovealError as error:
        end(ctx, str(error), REFUSED)
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        end(ctx, f"there is not enough memory{reason}; use smaller images, batches or models", REFUSED)
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        end(ctx, f"{where}{error.strerror or error}", REFUSED)
    except KeyboardInterrupt as interrupt:
        echo(f"\n{interrupt}" if str(interrupt) else "\nInterrupted.", err=True)
        ctx.exit(INTERRUPTED)
    except Terminated as interrupt:
        echo(f"\n{interrupt}", err=True)
        ctx.exit(TERMINATED)
    except Exception as error:
        if debug.level():
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        end(ctx, f"this is a fault in Foveal ({what}); please report it with {kept_traceback()}", FAULT)


def end(ctx: click.Context, message: str, status: int) -> None:
    """Print a message and exit."""
    echo(f"Error: {message}", err=True)
    ctx.exit(status)


def kept_traceback() -> str:
    """Write the traceback of the exception that is handled to a file; return where it is, for a message."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="foveal-", suffix=".txt", delete=False, errors="replace") as file:
            file.write(f"{sys.argv}\n{traceback.format_exc()}")
        return file.name
    except OSError:
        return "what DEBUG=1 shows"
