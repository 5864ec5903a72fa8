"""Recipes: the network and the hyper-parameters that `foveal train` uses, by the size and the number of the images.

A recipe counts steps, not epochs: 200 images are gone through many times, 200,000 only a few times. `RECIPES` is the
table; docs/recipes.md compares it with searches, and has the command for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

import numpy as np

from foveal.errors import ShapeError
from foveal.explain import explain
from foveal.nn import models
from foveal.nn.models.blocks import Size
from foveal.peak import peak
from foveal.strides import Ndarray

Preset = Literal["fast", "best", "airbench94"]
PRESETS = get_args(Preset)
AIRBENCH = "airbench94"


@dataclass(frozen=True)
class Recipe:
    """A network and the hyper-parameters to train it with."""

    #: A name of `nn.models.NAMES`.
    model: str
    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "nesterov"
    weight_decay: float = 5e-4
    #: How training images are varied: None, "shift", "crop+flip" (the names of data.augment.AUGMENTATIONS).
    augment: str | None = None
    #: The optimiser's default if None.
    momentum: float | None = None
    label_smoothing: float = 0.0
    #: Decay of a moving average of the parameters, which is what is tested and kept; None for no average.
    ema: float | None = None
    #: The schedule of the rate; one cycle if None.
    schedule: str | None = None
    #: Options of `train.Options` of the same names; None for none of it.
    lookahead: float | None = None
    norm_bias_lr: float | None = None
    whiten: int | None = None
    #: Test-time augmentation of the trained model, of which mirror images are left out where training has none.
    tta: str | None = None
    #: Updates of the whole run that the epochs were chosen for; 0 where the number of images is not known.
    steps: int = 0
    #: What was chosen and why, in a sentence for people.
    reason: str = ""


# For data of any kind and a network of one's own, where nothing is known of either.
GENERAL = Recipe("", epochs=10, batch_size=32, lr=2e-3, optimizer="adamw", weight_decay=0.01)


@dataclass(frozen=True)
class Row:
    """What is used from so many training images on."""

    images: int
    batch_size: int
    lr: float
    weight_decay: float
    steps: int
    augment: str | None


@dataclass(frozen=True)
class Family:
    """Recipes for images of similar size."""

    #: The longer side is below this.
    below: float
    #: The network, and those to choose from when a time is given, from cheap to expensive.
    model: str
    others: tuple[str, ...]
    #: How many images are assumed where their number is not known.
    usual: int
    rows: tuple[Row, ...]


SMALL_ROWS = (
    Row(1, 16, 0.05, 5e-3, 1800, "shift"),
    Row(700, 32, 0.2, 5e-4, 1500, "shift"),
    Row(5_000, 64, 0.15, 5e-4, 1800, "shift"),
    Row(20_000, 128, 0.2, 5e-4, 2340, None),
    Row(150_000, 128, 0.2, 5e-4, 6000, None),
)
COLOUR_ROWS = (
    Row(1, 16, 0.05, 5e-3, 2500, "crop+flip"),
    Row(700, 32, 0.1, 2e-3, 3000, "crop+flip"),
    Row(5_000, 64, 0.2, 1e-3, 6000, "crop+flip"),
    Row(20_000, 128, 0.3, 5e-4, 11_700, "crop+alternate"),
    Row(100_000, 128, 0.3, 5e-4, 16_000, "crop+alternate"),
    Row(500_000, 256, 0.6, 1e-4, 24_000, "crop+flip"),
)
RECIPES = (
    Family(
        16,
        "small",
        ("small",),
        1437,
        (Row(1, 16, 0.05, 5e-4, 800, "shift"), Row(700, 32, 0.1, 5e-4, 1056, "shift"), *SMALL_ROWS[2:]),
    ),
    Family(32, "small", ("small",), 60_000, SMALL_ROWS),
    Family(129, "resnet20", ("resnet8-tiny", "resnet20", "resnet18-cifar"), 50_000, COLOUR_ROWS),
    # A network that reduces the image fourfold before its first residual block.
    Family(math.inf, "resnet18", ("mobilenet_v3_small", "resnet18", "resnet34"), 50_000, COLOUR_ROWS),
)
# Presets: the share of the steps of the table, where there is more to gain from more steps, and for many images.
FAST_SHARE, BEST_SHARE, BEST_SHARE_MANY, MANY = 0.4, 2.0, 1.0, 20_000
# The average of `best` is over about this share of the last steps, and no more than LONGEST_EMA.
EMA_SHARE, LONGEST_EMA = 0.03, 0.999
# Of the targets of `best` where there are many images: enough for a network to be too certain of, and to gain by this.
BEST_SMOOTHING = 0.1
# What `best` averages over when the model is used, for images with a longer side of so many pixels or more: of smaller
# ones a pixel, by which they are moved at least, is too much (digits lost by it).
BEST_VIEWS, LEAST_MOVED = "crops+flip", 16
# Networks that learn more from many images by Muon's steps than by those of stochastic gradient descent (ResNet-20 on
# CIFAR-10: docs/results.md), and what these steps take. To make filters orthogonal takes fifteen products of matrices
# in each layer (optim/muon.py): by their shapes 1 % of the multiply-adds of ResNet-20's step of 128 images, but a
# quarter of those of the ResNet-18 for such images.
BY_MUON = ("resnet20",)
MUON_OPTIONS: dict[str, Any] = {"optimizer": "muon", "lr": 0.02, "weight_decay": 0.01}
MUON_EMA = 0.997
# Classes that differ so much in their number of images are worth a word.
IMBALANCE = 10
# The share of the peak at which a training step computes, on which the choice of a network by time is based: resnet20
# passes it, as minimal filtering does less work (`foveal bench models resnet20`), others stay below. The number of
# epochs is based on steps that are measured.
SPEED = 0.7
# Multiply-adds of a training step: of the forward pass, and of both gradients.
PASSES = 3
# More steps than this multiple of the table's are not worth their time.
MOST = 3.0


def recipe_for(
    size: Size,
    images: int | None = None,
    classes: int | None = None,
    minutes: float | None = None,
    preset: Preset | None = None,
    labels: Ndarray | None = None,
    channels: int = 3,
    threads: int = 1,
    model: str | None = None,
    optimizer: str | None = None,
) -> Recipe:
    """Return the recipe for images of that size (rows, columns).

        recipe_for((32, 32), images=1100).epochs  # as many as make about 3,000 steps of 32 images

    images: how many there are to train on; a usual number for that size if not given. classes: how many. labels: their
    class numbers [n], for a word about imbalance. preset: "fast", "best", or "airbench94" (K. Jordan 2024). minutes:
    the network is the largest that can do the steps in that time on so many threads, by its multiply-adds and the
    machine's peak; `train` then measures steps and fits the epochs. channels: of the images, for the costs. model and
    optimizer: what the caller has chosen, where it has; the rest of the recipe is for these.
    Raises ShapeError for a preset that there is not, and numbers of 0 or less.
    """
    if preset not in (None, *PRESETS):
        raise ShapeError(f"preset {preset!r}: choose from {', '.join(PRESETS)}")
    for what, value in (("images", images), ("minutes", minutes)):
        if value is not None and not value > 0:
            raise ShapeError(f"{what} is {value}: it must be more than 0")
    # The size of the images chooses the family, and their number its row: the last one that as many suffice for.
    family = next(family for family in RECIPES if max(size) < family.below)
    count = images or family.usual
    row = next(row for row in reversed(family.rows) if row.images <= count)
    recipe = airbench94(count) if preset == AIRBENCH else of_row(family.model, row, count, preset)
    if minutes is not None and preset != AIRBENCH:
        work, image = recipe.steps * recipe.batch_size, (channels, *size)
        recipe = replace(recipe, model=model_for(family.others, image, classes or 10, work, minutes, threads))
    by_muon = (model or recipe.model) in BY_MUON and optimizer in (None, MUON_OPTIONS["optimizer"])
    if by_muon and count >= MANY and preset != AIRBENCH:
        recipe = replace(recipe, **MUON_OPTIONS, ema=recipe.ema or MUON_EMA)
    tta = recipe.tta if max(size) >= LEAST_MOVED else None
    return replace(recipe, tta=tta, reason=reason(recipe, images, labels, preset))


def of_row(model: str, row: Row, images: int, preset: Preset | None) -> Recipe:
    """Return the recipe of a row of the table for so many images."""
    share = {None: 1.0, "fast": FAST_SHARE, "best": BEST_SHARE_MANY if images >= MANY else BEST_SHARE}[preset]
    batch = min(row.batch_size, images)
    per_epoch = images // batch
    epochs = max(1, round(share * row.steps / per_epoch))
    steps = epochs * per_epoch
    ema = min(LONGEST_EMA, 1 - 1 / max(2.0, EMA_SHARE * steps)) if preset == "best" else None
    ema = None if ema is None else round(ema, 4)
    decay, augment = row.weight_decay, row.augment
    tta = BEST_VIEWS if preset == "best" else None
    smoothing = BEST_SMOOTHING if preset == "best" and images >= MANY else 0.0
    return Recipe(
        model,
        epochs,
        batch,
        row.lr,
        weight_decay=decay,
        augment=augment,
        label_smoothing=smoothing,
        ema=ema,
        tta=tta,
        steps=steps,
    )


def airbench94(images: int) -> Recipe:
    """Return the recipe of airbench94 (K. Jordan, 94 % on CIFAR-10 in 3.29 seconds on a single GPU, 2024, section 3).

    The source's rate of 11.5 and decay of 0.0153 are per 1,024 images, for sums over a batch, and "decoupled": divided
    by 1 + 1 / (1 - 0.85), the size that a step of Nesterov's momentum of 0.85 has in the end. That is a rate of 1.5 for
    means over a batch, and a decay of 0.00133 in its gradient. A step takes away 0.002 of a parameter for 1,024 images,
    of the biases of batch norms too, whose rate is 64 times as large. Fewer images get smaller batches, and a rate in
    proportion, so that there are about 480 steps, as in the source's 9.9 epochs.
    """
    batch = min(1024, max(1, images // 48))
    per_epoch = images // batch
    epochs = max(1, round(480 / per_epoch))
    return Recipe(
        AIRBENCH,
        epochs=epochs,
        batch_size=batch,
        lr=1.5 * batch / 1024,
        weight_decay=0.0153 / 11.5,
        augment="translate+alternate",
        momentum=0.85,
        label_smoothing=0.2,
        schedule="slanted-triangular",
        lookahead=0.95,
        norm_bias_lr=64.0,
        whiten=min(3, epochs),
        tta="shifts+flip",
        steps=epochs * per_epoch,
    )


def reason(recipe: Recipe, images: int | None, labels: Ndarray | None, preset: Preset | None) -> str:
    """Return what was chosen and why, in one or two sentences."""
    if images is None:
        return ""
    s = recipe
    by = f" ({preset})" if preset else ""
    text = (
        f"{images:,} images{by}: {images // s.batch_size:,} steps per epoch of {s.batch_size}, {s.epochs:,} epoch"
        f"{'s' * (s.epochs > 1)} for about {s.steps:,} steps"
    )
    if labels is None or not len(labels):
        return text
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if counts.max() < IMBALANCE * counts.min():
        return text
    return f"{text}; classes have from {counts.min():,} to {counts.max():,} images: --balance lets rare ones count more"


def model_for(
    names: tuple[str, ...], image: tuple[int, int, int], classes: int, work: int, minutes: float, threads: int
) -> str:
    """Return the largest of the networks that can train on `work` images (C, H, W) in that time; else the smallest."""
    limit = affordable(minutes, threads)
    fitting = [name for name in names if multiply_adds(name, image, classes) * work <= limit]
    return fitting[-1] if fitting else names[0]


@cache
def multiply_adds(model: str, image: tuple[int, int, int], classes: int) -> int:
    """Return the multiply-adds of a network for one image (C, H, W), from shapes alone."""
    net = models.build(model, channels=image[0], size=image[1:], classes=classes, seed=0)
    return int(explain(net, image).macs)


# Sides of images to choose from; smaller ones are taken as they are.
SIDES = (32, 48, 64, 96, 128, 160, 192, 224)
# Multiply-adds of resnet20 for a pixel. Those of a whole training where no time is given, by preset: some ten minutes
# on two cores, three and thirty. They are fixed, so that the size depends on no timing.
PER_PIXEL = 40_000
USUAL_WORK: Mapping[Preset | None, float] = {None: 2e13, "fast": 6e12, "best": 6e13, "airbench94": 2e13}
# Photos of fewer pixels show too little; it may take longer then, unless a time is given.
LEAST = 48
# An aspect ratio between 1 / SQUARE and SQUARE is taken for 1, as photos come upright and lying.
SQUARE = 1.25


def image_size(
    sizes: Ndarray, minutes: float | None = None, preset: Preset | None = None, threads: int = 1
) -> tuple[int, int]:
    """Return (rows, columns) that images of these sizes are to be resized to for training.

        image_size(np.array([[640, 480], [480, 640]]))

    sizes: [n, 2], width and height of each training image in pixels, as their headers have them. Images of one size of
    up to 64 pixels stay as they are. Else the shorter side is the largest of SIDES that is no longer than that of most
    images and with which the recipe's steps can be done in `minutes` on so many threads, by the machine's peak; without
    minutes the work is a fixed number of multiply-adds, about ten minutes on two cores, and the side at least 48. The
    longer side follows where most images are much wider, or higher, than that. Raises ShapeError for other arrays.
    """
    sizes = np.asarray(sizes)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not len(sizes) or sizes.min() < 1:
        raise ShapeError(f"image_size: sizes of shape {list(sizes.shape)}; give width and height of each image, [n, 2]")
    width, height = (int(value) for value in sizes[0])
    if (sizes == sizes[0]).all() and max(width, height) <= 64:
        return height, width
    recipe = recipe_for((64, 64), len(sizes), preset=preset)
    work = USUAL_WORK[preset] if minutes is None else affordable(minutes, threads)
    # A square of this side takes all of it.
    side = max(math.sqrt(work / (PER_PIXEL * recipe.steps * recipe.batch_size)), LEAST if minutes is None else 0)
    shorter = float(np.median(sizes.min(axis=1)))
    side = max([s for s in SIDES if s <= min(side, shorter)], default=SIDES[0])
    aspect = float(np.median(sizes[:, 0] / sizes[:, 1]))
    if 1 / SQUARE <= aspect <= SQUARE:
        return side, side
    longer = round(side * min(2.0, max(aspect, 1 / aspect)) / 8) * 8
    return (side, longer) if aspect > 1 else (longer, side)


def affordable(minutes: float, threads: int) -> float:
    """Return the multiply-adds of forward passes that a training can have in that time on so many threads."""
    return SPEED * peak(threads) * 1e9 * minutes * 60 / (2 * PASSES)
