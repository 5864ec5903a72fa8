"""MODEL.md: what a model is for, what it was trained and tested on, and what it was not tested on.

In the layout of Hugging Face's model cards (huggingface.co/docs/hub/model-cards; Mitchell et al., "Model Cards for
Model Reporting", 2019): a header in YAML for machines, then Markdown.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import foveal
from foveal import metrics
from foveal.data.dataset import Dataset
from foveal.files import write_whole
from foveal.names import printable
from foveal.train.checkpoint import METRICS, ModelDescription, load_net
from foveal.train.evaluate import calibrated_scores, classification_report, predict
from foveal.train.files import writing
from foveal.train.history import AVERAGED
from foveal.train.repeating import repeating
from foveal.train.views import views

CARD, RUN = "MODEL.md", "run.json"
# A figure that rests on fewer images is called uncertain.
FEW_IMAGES = 30
# Licences by the names that the hub has for them; any other is told as it is.
LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0")
# What decides about a run, of what metrics.json holds.
_SETTINGS = (
    "model",
    "epochs",
    "batch_size",
    "lr",
    "optimizer",
    "schedule",
    "weight_decay",
    "augment",
    "ema",
    "lookahead",
    "norm_bias_lr",
    "whiten",
    "tta",
    "seed",
)


def write_card(run: str | Path, data: Dataset, cls: type | Sequence[type] = ()) -> Path:
    """Write MODEL.md beside the model of a run, with measures on the test images of `data`; return its path.

    run: the folder of a run. cls: as in `foveal.load`. Raises as `load_net` does, and DataError where the data do not
    fit the model, or the file cannot be written.
    """
    folder = Path(run)
    net, description = load_net(folder, cls=cls)
    labels = description.check(data)[data.y_test]
    logits = predict(net, data.images_test, mean=description.mean, std=description.std, tta=description.tta)
    report = classification_report(logits, labels, description.classes)
    calibrated = calibrated_scores(logits, labels, description.temperature)
    facts = {**read_json(folder / METRICS), **read_json(folder / RUN)}
    text = "\n\n".join(
        [
            header(description, report, len(labels)),
            *details(folder, description),
            *training(description, data, facts),
            *evaluation(data, description, report, calibrated, facts),
            *limits(description, report),
        ]
    )
    with writing(folder):
        write_whole(folder / CARD, f"{text}\n".encode())
    return folder / CARD


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of the run holds; nothing if it is not there or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def header(description: ModelDescription, report: Mapping[str, Any], images: int) -> str:
    """Return the YAML header. A text in JSON is one in YAML too."""
    known = (description.licence or "").lower()
    lines = ["library_name: foveal", "pipeline_tag: image-classification", "tags:", "- image-classification"]
    if known in LICENCES:
        lines.append(f"license: {known}")
    elif description.licence is not None:
        lines += ["license: other", f"license_name: {json.dumps(description.licence)}"]
    lines += [
        "metrics:",
        "- accuracy",
        "model-index:",
        f"- name: {json.dumps(description.model or 'own network')}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      name: {json.dumps(description.data)}",
        f"      type: {json.dumps(description.data)}",
        "    metrics:",
        "    - type: accuracy",
        f"      value: {report['accuracy']:.4f}",
        f"      name: {json.dumps(f'accuracy on {images} test images')}",
    ]
    return "\n".join(["---", *lines, "---"])


def details(folder: Path, description: ModelDescription) -> Iterator[str]:
    """Yield what the model is, what it is for and how it is used."""
    name, classes = description.model or "A network of one's own", description.classes
    channels = "grey" if description.channels == 1 else f"{description.channels}-channel"
    size = f"{channels} images of {description.size[0]} x {description.size[1]} pixels"
    yield f"# {name} for {shown(description.data)}"
    yield "## Model details"
    yield f"A convolutional network, {name}, that tells which of {len(classes)} classes an image shows."
    yield "\n".join(
        [
            f"- Classes: {', '.join(map(shown, classes))}",
            f"- Input: {size}, {preprocessing(description)}",
            f"- Normalised by mean {numbers(description.mean)} and standard deviation {numbers(description.std)}",
            f"- Licence of the weights: {shown(description.licence or 'not stated')}",
        ]
    )
    yield "## Uses"
    yield (
        "It is for images like those that it was trained on. "
        + (
            "Every image gets one of the classes above, also one that shows something else."
            if description.thresholds is None
            else 'An image of whose class it is not certain enough gets the answer "none of these".'
        )
    )
    yield "## How to get started"
    run = json.dumps(folder.name)
    yield f'```python\nimport foveal\nclassifier = foveal.load({run})\nprint(classifier("photo.jpg").label)\n```'
    yield f"On the command line: `foveal predict {shlex.quote(folder.name)} photo.jpg`"
    if description.tta is not None:
        count = len(views(description.tta))
        yield (
            f"It answers by test-time augmentation ({description.tta}): the mean over {count} views of each image,"
            f' which takes {count} times as long as one. `--tta none`, or `tta="none"` in Python, leaves that out.'
        )


def preprocessing(description: ModelDescription) -> str:
    """Return in words how an image file becomes the network's input."""
    how = description.preprocessing
    if how is None:
        low, high = description.value_range
        return f"pixels from {low:g} to {high:g}; files are resized to that, without keeping the aspect ratio"
    fit = "resized without keeping the aspect ratio"
    if how.fit == "crop":
        fit = f"resized to cover {how.resized[0]} x {how.resized[1]} pixels, of which the centre is cut out"
    return f"rotated upright, {fit} ({how.interpolation}); what is transparent lies on the colour {how.background}"


def training(description: ModelDescription, data: Dataset, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the data, the command, the settings and the versions."""
    yield "## Training details"
    count = 0 if data.images_validation is None else len(data.images_validation)
    trained, own = len(data.y_train), facts.get("validation_images")
    if isinstance(own, int) and own + facts.get("train_images", 0) == trained:
        # The training has held them out of its images, also where the data bring a validation part.
        trained, count = trained - own, own
    held_out = f", {count:,} for validation" if count else ""
    counts = f"{trained:,} training images{held_out}, {len(data.y_test):,} for testing"
    yield f"Data: {shown(data.name)}, {counts}."
    command = facts.get("command")
    words = command.get("words") if isinstance(command, Mapping) else None
    if isinstance(words, list) and words:
        text = printable(shlex.join(repeating(words, command, facts)))
        # In a block of code nothing has a meaning but the line that ends it, and that is longer than any in the text.
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        yield f"{fence}sh\n{text}\n{fence}"
    settings = [(name, facts[name]) for name in _SETTINGS if facts.get(name) is not None]
    yield table(("setting", "value"), settings)
    versions = facts.get("versions")
    if not isinstance(versions, Mapping):
        versions = {"foveal": foveal.__version__, "NumPy": np.__version__, "Python": platform.python_version()}
    yield f"Versions: {', '.join(f'{shown(str(name))} {shown(str(value))}' for name, value in versions.items())}."


def evaluation(
    data: Dataset,
    description: ModelDescription,
    report: Mapping[str, Any],
    calibrated: Mapping[str, float] | None,
    facts: Mapping[str, Any],
) -> Iterator[str]:
    """Yield the measures, of all test images and by class, and how well probabilities agree with them.

    calibrated: what they are with the model's temperature; None without one. facts: of metrics.json.
    """
    images = len(data.y_test)
    low, high = metrics.wilson_interval(round(report["accuracy"] * images), images)
    yield "## Evaluation"
    yield (
        f"On the {images:,} test images of {shown(data.name)}: accuracy {report['accuracy']:.1%} (95 % interval"
        f" {low:.1%} to {high:.1%}), cross-entropy {both(report['loss'], calibrated, 'loss')}."
    )
    if description.tta is not None:
        plain = facts.get("test", {}).get("accuracy") if facts.get(AVERAGED) else None
        alone = "" if plain is None else f" Without that, when it was trained, the accuracy was {plain:.1%}."
        yield f"Each image was averaged over {len(views(description.tta))} views.{alone}"
    rows = [
        (entry["class"], entry["images"], *(f"{entry[name]:.1%}" for name in ("precision", "recall", "f1")))
        for entry in report["classes"]
    ]
    yield table(("class", "test images", "precision", "recall", "F1"), rows)
    ece, brier = (both(report["calibration"][name], calibrated, name) for name in ("ece", "brier"))
    yield f"Calibration: expected calibration error {ece}, Brier score {brier} on the same images."


def both(value: float, calibrated: Mapping[str, float] | None, name: str) -> str:
    """Return a number of the network's own probabilities and, where there are some, of the calibrated ones."""
    own = f"{value:.4f} as the network says"
    return own if calibrated is None else f"{own} and {calibrated[name]:.4f} calibrated"


def limits(description: ModelDescription, report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not known of the model."""
    few = [entry["class"] for entry in report["classes"] if entry["images"] < FEW_IMAGES]
    lines = [
        "It was not tested on images from other sources (other cameras, light, backgrounds, drawings, screenshots), on"
        " damaged or altered ones, or on images that show none of its classes or several of them.",
        "The figures hold for images that are drawn as the test images were; nothing is known of differences between"
        " groups of people, places or times.",
    ]
    if few:
        lines.append(
            f"Figures of classes with fewer than {FEW_IMAGES} test images are uncertain: {', '.join(map(shown, few))}."
        )
    if description.temperature == 1:
        lines.append(
            "Its probabilities are not calibrated: `foveal calibrate RUN DATA` fits a temperature on images that it was"
            " not trained on."
        )
    else:
        lines.append(f"Its probabilities are calibrated by the temperature {description.temperature:.4g}.")
    if description.thresholds is None:
        lines.append(
            'It has no thresholds for "none of these": `foveal predict --none-below 0.7`, for example, sets one.'
        )
    yield "## Limitations"
    yield "\n".join(f"- {line}" for line in lines)
    if description.thresholds is not None:
        rows = [(name, f"{value:.4f}") for name, value in zip(description.classes, description.thresholds, strict=True)]
        yield 'Thresholds, below which the answer is "none of these":'
        yield table(("class", "answered from"), rows)


def shown(text: str) -> str:
    """Return a text from outside as one line of Markdown, in which it means nothing but itself."""
    line = " ".join(printable(text).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in line)


def numbers(values: Sequence[float]) -> str:
    """Return numbers for a sentence."""
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *([shown(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
