"""The worst mistakes of a model, with what spoke for the wrong class and for the right one."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import basename
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal.data.dataset import Dataset
from foveal.data.statistics import scaled
from foveal.display import escaped
from foveal.errors import ShapeError
from foveal.report import page, pictures
from foveal.report.predictions import Predictions, parts_of
from foveal.strides import Ndarray
from foveal.train.checkpoint import ModelDescription

# Images that are shown, and those that are shown where there is no mistake.
MAX_MISTAKES, MAX_UNSURE = 24, 8


def file_of(data: Dataset, part: str, index: int) -> str | None:
    """Return the path of an image of a data set that was read from files."""
    return None if data.files is None or part not in data.files else data.files[part][index]


def images_of(data: Dataset, part: str, index: Sequence[int]) -> Ndarray | None:
    """Return images of a part as they are stored, [n, C, H, W]; None where the data set has no such part."""
    images = parts_of(data).get(part, (None, None))[0]
    return None if images is None or not len(index) else np.asarray(images[np.asarray(index)])


def normalised(images: Ndarray, description: ModelDescription) -> NDArray[np.float32]:
    """Return images [n, C, H, W] as the network takes them."""
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (description.mean, description.std))
    return ((scaled(images) - mean) / std).astype(np.float32)


def mistakes(net: Any, description: ModelDescription, data: Dataset, part: Predictions) -> str:
    """Return the wrong answers of the highest confidence; where all are right, the answers of the lowest."""
    wrong = np.flatnonzero(~part.right)
    order = wrong[np.argsort(-part.confidence[wrong], kind="stable")][:MAX_MISTAKES]
    note = (
        f"{len(wrong):,} of {len(part.label):,} answers are wrong; those that the network was surest of come first."
        " Beside each image is what speaks for the class that was answered (Grad-CAM, Selvaraju et al. 2017)."
    )
    if not len(wrong):
        order = np.argsort(part.confidence, kind="stable")[:MAX_UNSURE]
        note = "No answer is wrong. These are the right ones that the network was least sure of, with Grad-CAM beside."
    images = images_of(data, part.part, part.index[order].tolist())
    if images is None:
        return ""
    predicted = part.predicted[order]
    try:
        heat = pictures.heats(net, normalised(images, description), predicted.tolist())
    except ShapeError:
        # A network without places, such as one of linear layers.
        heat, note = None, note.split(" Beside each")[0]
    low, high = description.value_range
    # Bytes stand for value / 255.
    low, high = (low * 255, high * 255) if images.dtype == np.uint8 else (low, high)
    cards = ""
    for place, row in enumerate(order.tolist()):
        pixels = pictures.as_pixels(images[place], low, high)
        shown = None if heat is None else pictures.with_heat(pixels, heat[place])
        cards += card(description.classes, part, row, pixels, shown, file_of(data, part.part, int(part.index[row])))
    return page.paragraph(note, "soft") + f'<ul class="cards">{cards}</ul>'


def card(
    classes: Sequence[str],
    part: Predictions,
    row: int,
    pixels: pictures.Bytes,
    heat: pictures.Bytes | None,
    path: str | None,
) -> str:
    """Return one image with what it is, what was answered, and how surely."""
    label, answer = int(part.label[row]), int(part.predicted[row])
    what = f"{part.part} image {part.index[row]:,}"
    content, kind = pictures.encoded(pixels)
    style = "pixels" if kind == "png" else ""
    shown = page.picture(content, kind, f"{what}, labelled {classes[label]}, answered {classes[answer]}", style)
    if heat is not None:
        shown += page.picture(*pictures.encoded(heat), f"Grad-CAM of {classes[answer]} on {what}")
    given = f"{part.probability[row, answer]:.1%}"
    lines = [f"<b>{escaped(classes[answer])}</b> {given}"]
    if label != answer:
        lines.append(f"label: <b>{escaped(classes[label])}</b> {part.probability[row, label]:.1%}")
    name = what if path is None else basename(path)
    lines.append(f'<span class="soft"{titled(path)}>{escaped(name)}</span>')
    return f'<li><div class="pair">{shown}</div>{"<br>".join(lines)}</li>'


def titled(path: str | None) -> str:
    """Return the attribute that shows a whole path."""
    return "" if path is None else f' title="{escaped(path)}"'
