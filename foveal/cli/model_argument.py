"""The argument RUN|MODEL of `foveal explain`: which model it names, for which images and classes."""

from __future__ import annotations

import re
from pathlib import Path

from foveal.errors import DataError, ShapeError
from foveal.names import meant

# A size of 1 or more; what is larger than any image is refused by its value.
DIGITS = re.compile("0*[1-9][0-9]{0,19}")


def to_explain(model: str, image: str | None, classes: int | None) -> tuple[str, tuple[int, int, int], int]:
    """Return name, image (channels, rows, columns) and number of classes of the model to build.

    What is not given comes from the run if MODEL is one, else from the model's entry in `nn.models`.
    """
    from foveal.nn import models
    from foveal.train.checkpoint import load_run

    name = known_model(model)
    if name is not None:
        sizes = models.MODELS[name].image if image is None else image_sizes(image)
        return name, sizes, classes or (1000 if min(sizes[1:]) >= 64 else 10)
    if not Path(model).exists():
        raise DataError(
            f"{model}: no model has this name{meant(model, models.NAMES)} and there is no such run; models are"
            f" {', '.join(models.NAMES)}"
        )
    run, _ = load_run(model)
    if run.model is None:
        raise DataError(f"{model}: was trained with a network of its own; call summary(input_shape) on that")
    sizes = (run.channels, *run.size) if image is None else image_sizes(image)
    return run.model, sizes, classes or len(run.classes)


def known_model(name: str) -> str | None:
    """Return the name as it stands in `nn.models`, or None if there is no such model."""
    from foveal.nn import models

    try:
        return models.canonical(name)
    except ShapeError:
        return None


def image_sizes(text: str) -> tuple[int, int, int]:
    """Return channels, rows and columns from a text such as 3x224x224; raise ShapeError for any other text."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(map(DIGITS.fullmatch, parts)):
        raise ShapeError(f"--input {text!r}: give channels, rows and columns of one image, such as 3x224x224")
    channels, rows, columns = map(int, parts)
    return channels, rows, columns
