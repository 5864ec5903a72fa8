"""Random wrong calls of the public API: each has to end in one of Foveal's own errors, or in a result.

    python tests/support/wrong_calls.py --calls 20000 --seed 7 --part metrics

prints every finding once, with the call that leads to it: other errors (IndexError, AttributeError, an assertion, a
TypeError from inside, NumPy's own), warnings, and calls that take longer than LIMIT seconds. A call is drawn from its
number and the seed alone, so `--only NUMBER` repeats one.
"""

import argparse
import datetime
import inspect
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import numpy as np
from public_calls import targets

from foveal.errors import FovealError

# seconds of processor time that a call may take, and bytes that all calls together may take more than before
LIMIT, MEMORY = 5, 4 << 30


class Endless(BaseException):
    """A call takes longer than the limit."""


class Hostile:
    """An object that has no length, no truth, and no text."""

    def __bool__(self):
        raise ValueError("no truth")

    def __repr__(self):
        raise ValueError("no text")


# functions that make wrong values: of another type, rank or dtype, empty, huge, negative, NaN
WRONG = [
    lambda: None,
    lambda: "x",
    lambda: "",
    lambda: b"x",
    lambda: {},
    lambda: {"a": 1},
    lambda: set(),
    lambda: {1, 2},
    lambda: object(),
    lambda: Hostile(),
    lambda: int,
    lambda: lambda *given: given,
    lambda: 1 + 2j,
    lambda: True,
    lambda: ...,
    lambda: datetime.date(2020, 1, 1),
    lambda: 0,
    lambda: -1,
    lambda: 5,
    lambda: 1000,
    lambda: 2**31,
    lambda: 10**18,
    lambda: -(10**18),
    lambda: 10**400,
    lambda: 10**5000,
    lambda: 2.5,
    lambda: -0.5,
    lambda: 1e300,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: -float("inf"),
    lambda: np.float32(2.0),
    lambda: np.int64(2),
    lambda: np.uint8(3),
    lambda: np.bool_(True),
    lambda: np.datetime64("2020-01-01"),
    lambda: np.str_("x"),
    lambda: [],
    lambda: (),
    lambda: [[1, 2], [3]],
    lambda: [[1.0, 2.0], [3.0, 4.0]],
    lambda: ["a", "b"],
    lambda: [None, None],
    lambda: (1, 2),
    lambda: (1, 2, 3),
    lambda: (-1, 0),
    lambda: (2.0, 2.0),
    lambda: (1, 2, 3, 4, 5),
    lambda: (10**18, 10**18),
    lambda: [10**400],
    lambda: (float("nan"), 1.0),
    lambda: range(3),
    lambda: iter([1, 2]),
    lambda: np.array(3),
    lambda: np.zeros(0, "float32"),
    lambda: np.zeros((0, 3), "float32"),
    lambda: np.zeros((2, 0, 8, 8), "float32"),
    lambda: np.ones(3, "float32"),
    lambda: np.ones((2, 3), "float32"),
    lambda: np.ones((2, 2, 3), "float32"),
    lambda: np.ones((2, 2, 4, 4), "float32"),
    lambda: np.ones((1, 2, 2, 3, 3), "float32"),
    lambda: np.full((2, 3), np.nan, "float32"),
    lambda: np.full((2, 2, 8, 8), np.inf, "float32"),
    lambda: np.ones((6, 3), "float16"),
    lambda: np.ones((6, 3), "float64") * 1e300,
    lambda: np.zeros((6, 3), "uint8"),
    lambda: np.zeros(6, "uint8"),
    lambda: np.zeros(6, "int8") - 1,
    lambda: np.full(6, 2**40),
    lambda: np.full(6, 2**64 - 1, "uint64"),
    lambda: np.full(6, 0.5),
    lambda: np.zeros((2, 2), "complex64"),
    lambda: np.array([1, "a", None], object),
    lambda: np.array(["a", "b"]),
    lambda: np.array([b"a"]),
    lambda: np.zeros(6, "bool"),
    lambda: np.zeros(2, "datetime64[s]"),
    lambda: np.zeros(2, "timedelta64[s]"),
    lambda: np.zeros(2, [("a", "f4")]),
    lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    lambda: np.array([np.ones(2), np.ones(3)], object),
]


def drawn(target, rng):
    """A call of a target with one or more wrong arguments: (by position, by name)."""
    given, named = target.right()
    given, named = list(given), dict(named)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = [*range(len(given)), *named]
        # also parameters that are left out of the right call
        optional = [name for name in parameters(target.function)[len(given) :] if name not in named]
        kind = rng.integers(12)
        wrong = WRONG[rng.integers(len(WRONG))]()
        if kind == 0:
            named[str(rng.choice(["axis", "kernel", "learning_rate", "foo"]))] = wrong
        elif kind == 1:
            given.append(wrong)
        elif kind == 2 and given:
            given.pop()
        elif kind == 3 and named:
            named.pop(list(named)[rng.integers(len(named))])
        elif kind < 8 and optional and len(given) == len(target.right()[0]):
            named[optional[rng.integers(len(optional))]] = wrong
        elif places:
            place = places[rng.integers(len(places))]
            if isinstance(place, str):
                named[place] = wrong
            else:
                given[place] = wrong
    return given, named


def parameters(function):
    """The names of a callable's keyword parameters."""
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def judged(error, function):
    """What is wrong with an error: a text, or None."""
    if isinstance(error, FovealError):
        return None if len(str(error)) < 2000 else f"{type(error).__name__} of {len(str(error))} letters"
    frames = traceback.extract_tb(error.__traceback__)
    # A call that Python itself refuses: it fails before anything of the callable runs.
    direct = len(frames) <= 2
    if isinstance(error, TypeError) and direct and "argument" in str(error):
        return None
    where = frames[-1]
    inner = [f for f in frames if "foveal/" in f.filename] or frames
    return (
        f"{type(error).__name__} at {inner[-1].filename.rpartition('foveal/')[2]}:{inner[-1].lineno} {inner[-1].name}"
        f" ({where.name}): {str(error)[:150]}"
    )


@contextmanager
def limits():
    """Inside of the block a call that takes too long, or too much memory, ends in an error."""

    def ring(*_):
        raise Endless(f"longer than {LIMIT} s")

    previous = signal.signal(signal.SIGPROF, ring)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
        signal.signal(signal.SIGPROF, previous)


def outcome(target, given, named):
    """What is wrong with how a call ends: a text, or None."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("error")
            result = target.function(*given, **named)
            if target.use:
                target.use(result)
    except (Exception, Endless, SystemExit) as error:
        return judged(error, target.function)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def shown(value):
    try:
        text = f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else repr(value)
    except ValueError:
        text = type(value).__name__
    return text[:60]


def findings(calls, seed, parts=(), only=None):
    """Yield (number, call as text, what is wrong) of every call that ends in something else than an error of ours."""
    public = targets(parts)
    with limits():
        for number in range(calls) if only is None else (only,):
            rng = np.random.default_rng([seed, number])
            target = public[number % len(public)]
            given, named = drawn(target, rng)
            wrong = outcome(target, given, named)
            if wrong:
                texts = [*map(shown, given), *(f"{name}={shown(value)}" for name, value in named.items())]
                yield number, f"{target}({', '.join(texts)})", wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--part", action="append", default=[], help="ops, nn, loss, optim, schedule, init, metrics, ..."
    )
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    seen = Counter()
    for number, call, wrong in findings(options.calls, options.seed, options.part, options.only):
        kind = wrong.split(":")[0] + wrong.split(":")[1][:40]
        seen[kind] += 1
        if seen[kind] == 1:
            print(f"{number}: {call[:200]}\n    {wrong}".replace("\n  (", " ("), flush=True)
    print(f"{seen.total()} findings of {len(seen)} kinds in {options.calls} calls")
    sys.exit(bool(seen))


if __name__ == "__main__":
    main()
