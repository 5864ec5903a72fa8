"""What the metadata of a model file may say: every field of a run's description, checked before anything is built.

A model file may come from anywhere, or be damaged, so nothing in it is taken on trust: not that the text is JSON, not
the types, not that numbers are finite or that a network of these sizes fits into memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any, NoReturn

import numpy as np

from foveal.data.decoding.preprocessing import Preprocessing
from foveal.errors import DataError, ShapeError, StateError
from foveal.nn import models
from foveal.train.views import VIEWS

#: Letters of the name of a class or of a data set at most.
MAX_NAME = 1000
#: Channels, rows and columns of an image at most, and the numbers of one image: 256 MiB as float32.
MAX_SIDE, MAX_IMAGE = 1 << 16, 1 << 26
# The least and the largest standard deviation by which float32 pixels can be divided.
MIN_STD, MAX_STD = 1e-37, 1e37
MAX_FLOAT = float(np.finfo(np.float32).max)
# Values are shown in messages up to this length.
_shown = Repr()
_shown.maxstring = _shown.maxlong = _shown.maxother = 40

FIELDS = ("model", "data", "channels", "size", "classes", "mean", "std", "value_range")
# Files of models by name lack it.
NETWORK = "network"
# What stands under `preprocessing`, beside channels, size, mean, std and value_range, which are fields of their own.
HOW_READ = ("fit", "crop", "interpolation", "background")
# The fields that a file may lack, with the values that they have then.
OPTIONAL: dict[str, Any] = {"preprocessing": None, "temperature": 1.0, "thresholds": None, "licence": None, "tta": None}
# Logits are divided by temperatures from the first to the second.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3


def parse(text: str) -> dict[str, Any]:
    """Return the fields of a description from its JSON, not checked yet. Raises StateError where it is none."""
    try:
        entry = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise StateError("its brackets are nested too deeply for a description") from None
    # A number of more than 4300 digits is a ValueError too.
    except ValueError as error:
        raise StateError(f"not the JSON of a description ({error})") from None
    if not isinstance(entry, dict):
        raise StateError(f"{_shown.repr(entry)} in place of a JSON object with {', '.join(FIELDS)}")
    return entry


def _no_constant(name: str) -> NoReturn:
    raise StateError(f"it holds {name}, which is no JSON; every number has to be finite")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise StateError(f"the field {_shown.repr(twice)} stands there twice")
    return entry


def checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a description in their types. Raises StateError that names the field that is wrong."""
    absent = [name for name in FIELDS if name not in entry]
    if absent:
        raise StateError(f"{', '.join(absent)} missing")
    # Sizes first: they decide how much memory the rest would take.
    channels = _whole("channels", entry["channels"])
    rows, columns = (_whole("size", side) for side in _list("size", entry["size"], 2))
    if channels * rows * columns > MAX_IMAGE:
        raise StateError(f"images of {channels}x{rows}x{columns} hold more than {MAX_IMAGE:,} numbers")
    low, high = (_number("value_range", value) for value in _list("value_range", entry["value_range"], 2))
    if low > high:
        raise StateError(f"value_range goes from {low:g} down to {high:g}")
    std = tuple(_number("std", value) for value in _list("std", entry["std"], channels))
    wrong = [value for value in std if not MIN_STD <= value <= MAX_STD]
    if wrong:
        raise StateError(
            f"std is {wrong[0]:g}, and pixels are divided by it: it has to be more than 0, from {MIN_STD:g} to"
            f" {MAX_STD:g}"
        )
    found = {
        "model": _model(entry["model"]),
        "data": _text("data", entry["data"]),
        "channels": channels,
        "size": (rows, columns),
        "classes": class_names(entry["classes"]),
        "mean": tuple(_number("mean", value) for value in _list("mean", entry["mean"], channels)),
        "std": std,
        "value_range": (low, high),
        NETWORK: _network(entry),
    }
    return found | _optional({**OPTIONAL, **entry}, found)


def _optional(entry: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a description may lack; known: those that it has to have, checked."""
    preprocessing, thresholds, licence = (entry[name] for name in ("preprocessing", "thresholds", "licence"))
    temperature = _number("temperature", entry["temperature"])
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise StateError(
            f"temperature is {temperature:g}, it has to be from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
        )
    if thresholds is not None:
        listed = _list("thresholds", thresholds, len(known["classes"]))
        thresholds = tuple(_number("thresholds", value) for value in listed)
        if wrong := [value for value in thresholds if not 0 <= value <= 1]:
            raise StateError(f"thresholds holds {wrong[0]:g}, and probabilities lie between 0 and 1")
    tta = entry["tta"]
    # What is averaged over nothing is left out.
    if tta is not None and tta not in list(VIEWS):
        raise StateError(f"tta is {_shown.repr(tta)}; this version of Foveal has {', '.join(VIEWS)}")
    return {
        "preprocessing": None if preprocessing is None else _preprocessing(preprocessing, known),
        "temperature": temperature,
        "thresholds": thresholds,
        "licence": None if licence is None else _text("licence", licence),
        "tta": tta,
    }


def _preprocessing(entry: object, known: Mapping[str, Any]) -> Preprocessing:
    """Return how images were read, from the fields of HOW_READ, all of which are there and no others."""
    if not isinstance(entry, Mapping) or set(entry) != set(HOW_READ):
        raise StateError(f"preprocessing is {_shown.repr(entry)} in place of a JSON object with {', '.join(HOW_READ)}")
    fit, interpolation = (_text("preprocessing", entry[name]) for name in ("fit", "interpolation"))
    red, green, blue = (_byte("background", value) for value in _list("background", entry["background"], 3))
    shared = {name: known[name] for name in ("channels", "size", "mean", "std", "value_range")}
    crop = _number("crop", entry["crop"])
    try:
        return Preprocessing(fit=fit, crop=crop, interpolation=interpolation, background=(red, green, blue), **shared)
    except DataError as error:
        raise StateError(_shown_text(str(error))) from None


def _shown_text(text: str) -> str:
    """Return a message, cut where it repeats a long value."""
    return text if len(text) <= MAX_NAME // 5 else f"{text[: MAX_NAME // 5]}..."


def _network(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how a network of one's own is built, which is checked when it is (nn/architecture.py)."""
    network = entry.get(NETWORK)
    if network is not None and not isinstance(network, dict):
        raise StateError(f"{NETWORK} is {_shown.repr(network)} in place of a JSON object")
    return network


def class_names(names: object) -> tuple[str, ...]:
    """Return the names of classes. Raises StateError unless they are two or more different texts."""
    listed = tuple(_text("classes", name) for name in _list("classes", names))
    if len(listed) < 2:
        raise StateError(f"classes has {len(listed)} names, a classifier needs 2 or more")
    # The name of a data set may have them, as Python's names of files do that are not UTF-8.
    halves = [name for name in listed if any("\ud800" <= letter <= "\udfff" for letter in name)]
    if halves:
        raise StateError(f"classes holds {_shown.repr(halves[0])}, with half of a surrogate pair, which is no text")
    if len(set(listed)) < len(listed):
        twice = next(name for name in listed if listed.count(name) > 1)
        raise StateError(f"classes has the name {_shown.repr(twice)} twice")
    return listed


def _text(field: str, name: object) -> str:
    """Return a name of at most MAX_NAME letters."""
    if not isinstance(name, str):
        raise StateError(f"{field} holds {_shown.repr(name)} in place of a name")
    if len(name) > MAX_NAME:
        raise StateError(f"{field} holds a name of {len(name):,} letters, more than {MAX_NAME:,}: {_shown.repr(name)}")
    return str(name)


def _model(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise StateError(f"model is {_shown.repr(name)} in place of a name")
    try:
        return models.canonical(name)
    except ShapeError:
        raise StateError(
            f"model is {_shown.repr(name)}, and this version of Foveal has no network of that name"
        ) from None


def _list(field: str, values: object, length: int | None = None) -> Sequence[object]:
    """Return a list or tuple of that length."""
    if not isinstance(values, list | tuple):
        raise StateError(f"{field} is {_shown.repr(values)} in place of a list")
    if length is not None and len(values) != length:
        raise StateError(f"{field} has {len(values)} numbers, {length} are needed: {_shown.repr(values)}")
    return values


def _whole(field: str, value: object) -> int:
    """Return a whole number from 1 to MAX_SIDE."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= MAX_SIDE:
        raise StateError(f"{field} holds {_shown.repr(value)} in place of a whole number from 1 to {MAX_SIDE:,}")
    return int(value)


def _byte(field: str, value: object) -> int:
    """Return a whole number from 0 to 255."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= 255:
        raise StateError(f"{field} holds {_shown.repr(value)} in place of a whole number from 0 to 255")
    return int(value)


def _number(field: str, value: object) -> float:
    """Return a number that float32 can hold."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    # An int is compared first, since a large one cannot become a float; NaN compares as False.
    if not number or not abs(value) <= MAX_FLOAT:  # type: ignore[arg-type]
        raise StateError(f"{field} holds {_shown.repr(value)} in place of a finite number")
    return float(value)  # type: ignore[arg-type]
