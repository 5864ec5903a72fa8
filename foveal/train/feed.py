"""What a run trains on and what it is measured by, as loaders: of a Dataset, a Loader, arrays, sequences or generators.

A Dataset brings its test images, its mean and std, and a recipe; everything else is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Philox

from foveal import nn
from foveal.data import transforms
from foveal.data.augment import WITHOUT_MIRROR, Steps, augmentation, combined, mirrors_keep_class
from foveal.data.dataset import Dataset, Labels
from foveal.data.loader import Loader, even_batch
from foveal.data.scanning.membership import written_parts
from foveal.data.sources import Arrays, Items, Pairs
from foveal.errors import ArgumentError, DataError, ShapeError
from foveal.strides import Ndarray
from foveal.system import processors
from foveal.train.checkpoint import ModelDescription
from foveal.train.evaluate import EVALUATION_BATCH
from foveal.train.recipes import GENERAL, Recipe
from foveal.train.settings import ONE_CYCLE, Settings, TrainOptions, recipe_of, settings_of

# The stream of random numbers that picks the images held out; 1, 2 and 4 are the loader's.
HOLD_OUT_STREAM = 3
# A run with less than this part of the recipe's updates is worth a word.
FEW = 4
# Batches of fewer pixels are made when they are needed, which takes less time than handing them over.
AHEAD_PIXELS = 1 << 18
# The views of images that are never mirrored.
CROPS_ALONE = "crops"
# Threads that make batches; a batch each may wait, and one more.
LOADER_THREADS = 8


@dataclass
class Feed:
    """Training data, and the parts that the network is measured by."""

    #: Names the data in metrics.json, and in a line for people.
    name: str
    text: str
    loader: Loader
    #: By name, "validation" and "test".
    parts: dict[str, Loader]
    #: What is written beside the weights; None where nothing is known of the data.
    description: ModelDescription | None = None
    #: How many training images each class has [K], of a Dataset.
    counts: Ndarray | None = None
    #: What the recipe has chosen and why, for people; empty where it was not asked.
    reason: str = ""
    #: Updates that the recipe's numbers are for; 0 where it was not asked.
    steps: int = 0
    #: True where the data bring a validation part, so that the best epoch by it is what the run keeps.
    best: bool = False
    #: Of a data set of image files, those of each part, as `membership.written_parts` returns them.
    files: dict[str, str] | None = None
    #: The share of the training images that is held out as the validation part; None for other validation data.
    share: float | None = None
    #: The training data as they are, in order, which the first layer may be made from; None for a Loader.
    plain: Share | None = None


@dataclass
class Share:
    """Some of the data, and how a loader makes batches of it."""

    data: Any
    options: dict[str, Any] = field(default_factory=dict)

    def loader(self, **options: Any) -> Loader:
        return Loader(self.data, **{**self.options, **options})

    def count(self) -> int | None:
        """Return the number of items; None where it is not known. None of them is read."""
        return self.loader(batch_size=1).count

    def first(self, count: int) -> Iterator[Any]:
        """Yield batches of the first `count` items, in order, as they are."""
        for place, (x, _) in enumerate(self.loader(batch_size=EVALUATION_BATCH)):
            rest = count - place * EVALUATION_BATCH
            yield x[:rest]
            if rest <= EVALUATION_BATCH:
                return

    def measured(self) -> Loader:
        """Return a loader that walks through all items in order, in batches of one size."""
        count = self.count()
        return self.loader(batch_size=EVALUATION_BATCH if count is None else even_batch(count, EVALUATION_BATCH))


def settings_and_feed(data: Any, options: TrainOptions) -> tuple[Settings, Feed]:
    """Return the settings of a run and its data. Raises as `train` does."""
    if isinstance(data, Dataset):
        return of_dataset(data, options)
    if options.tta is not None:
        raise ArgumentError(
            "train: tta is stored in the model file of a Dataset, and data is none; foveal.data.from_arrays makes one,"
            " and train.predict(net, x, ..., tta='flip') takes it without"
        )
    if isinstance(data, str | Path):
        raise ArgumentError(f"train: data is the name {str(data)!r}; read it first: foveal.data.load({str(data)!r})")
    # Its items are batches, and would be taken for images.
    if type(data).__name__ == "DataLoader":
        raise ArgumentError(
            "train: data is a DataLoader, which yields batches; give what it loads, train(loader.dataset, net,"
            " batch_size=32), or foveal.data.Loader(loader, batch_size=None), which takes batches as they are"
        )
    if not isinstance(options.model, nn.Module):
        missing = "is missing" if options.model is None else f"is the name {options.model!r}"
        raise ArgumentError(
            f"train: the network {missing}: give one for this data, train(data, net). For a Dataset, which"
            " foveal.data.from_arrays makes of arrays, one is built, since it says how many classes there are"
        )
    if isinstance(data, Loader):
        return of_loader(data, options)
    share, parts = with_validation(Share(data), options.validation, options.seed, {})
    settings = settings_of(GENERAL, share.count(), options)
    # A generator has an order of its own, and what it leaves over would be the same in each epoch.
    order = share.count() is not None
    augment = combined(options.augment, options.flip is not False)
    how = {"seed": settings.seed, "shuffle": order, "drop_last": order, "augment": augment, "mix": options.mix}
    loader = share.loader(batch_size=settings.batch_size, **how)
    settings, feed = of_own_data(type(data).__name__, settings, loader, parts, options)
    return settings, replace(feed, plain=share)


def of_dataset(data: Dataset, options: TrainOptions) -> tuple[Settings, Feed]:
    """Return settings and feed of a data set: images are normalised, and its test images are always measured."""
    # Refuses what could not be read again.
    description = ModelDescription.of(None, data, options.model if isinstance(options.model, nn.Module) else None)
    normalised = {"mean": data.mean, "std": data.std}
    how = {**normalised, "channels": "first"}
    share, parts = Share((data.images_train, data.y_train), how), {}
    if is_share(options.validation) and data.images_train.shape[2:] != data.size:
        raise DataError(
            f"train: validation is a share of training images that are kept larger than {data.size[0]}x{data.size[1]},"
            " and are measured at that size: leave enlarge out, or let the data set have a validation part"
        )
    if isinstance(options.validation, Dataset):
        # Its classes may be numbered otherwise.
        numbers = description.check(options.validation)
        pair = options.validation.images_test, numbers[options.validation.y_test]
        parts["validation"] = Share(pair, how).measured()
    elif options.validation is None and data.images_validation is not None:
        parts["validation"] = Share((data.images_validation, data.y_validation), how).measured()
    else:
        share, parts = with_validation(share, options.validation, options.seed, {**normalised, "classes": data.classes})
    recipe = recipe_of(data, share.count(), options)
    settings = settings_of(recipe, share.count(), options)
    parts["test"] = Share((data.images_test, data.y_test), how).measured()
    flip = mirrors_keep_class(data.name) if options.flip is None else options.flip
    settings = replace(settings, flip=flip, tta=settings.tta if options.tta is not None else fitting(settings, flip))
    augment = augmentation(settings.augment, data.size, flip) if named(options) else combined(options.augment, flip)
    if data.images_train.shape[2:] != data.size:
        # They are kept larger, for augmentations that cut; what is not cut to size is cut in the middle.
        augment = Steps([*([] if augment is None else [augment]), transforms.CenterCrop(data.size)])
    order: dict[str, Any] = {"seed": settings.seed, "shuffle": True, "drop_last": True, "augment": augment}
    # The names say how many classes are mixed.
    order |= {"mix": options.mix, "classes": data.classes}
    order |= made_ahead(data, settings.batch_size)
    loader = share.loader(batch_size=settings.batch_size, **order)
    labels = data.y_train if loader.rows is None else data.y_train[loader.rows]
    return settings, Feed(
        data.name,
        str(data),
        loader,
        parts,
        replace(description, model=settings.model, tta=settings.tta),
        counts=np.bincount(labels, minlength=len(data.classes)),
        reason="" if options.minutes is not None else reason_for(recipe, settings, len(loader)),
        steps=recipe.steps,
        best=data.images_validation is not None,
        files=None if data.files is None or data.folder is None else written_parts(data.files, data.folder),
        share=float(options.validation) if is_share(options.validation) else None,
        plain=share,
    )


def fitting(settings: Settings, flip: bool) -> str | None:
    """Return the recipe's test-time augmentation, without mirror images where the network was not trained on any."""
    mirrored = flip and settings.augment in WITHOUT_MIRROR
    return settings.tta if mirrored or settings.tta is None else CROPS_ALONE


def reason_for(recipe: Recipe, settings: Settings, per_epoch: int) -> str:
    """Return what the recipe has chosen and why; where the run has far fewer updates than the recipe, that."""
    s, updates = settings, settings.epochs * -(-per_epoch // settings.accumulate)
    if s.accumulate == 1 and (s.batch_size, s.epochs) == (recipe.batch_size, recipe.epochs):
        return recipe.reason
    if updates * FEW >= recipe.steps:
        return ""
    return (
        f"{updates:,} updates in all are few: the recipe has about {recipe.steps:,}, in {recipe.epochs:,} epochs of"
        f" batches of {recipe.batch_size}; more epochs, or a smaller batch, learn more"
    )


def made_ahead(data: Dataset, batch_size: int) -> dict[str, int]:
    """Return how a loader makes batches ahead, by threads; not at all where that takes longer than making them."""
    if batch_size * int(np.prod(data.images_train.shape[1:])) < AHEAD_PIXELS:
        return {}
    threads = min(processors(), LOADER_THREADS)
    return {"prefetch": threads + 1, "threads": threads}


def of_loader(loader: Loader, options: TrainOptions) -> tuple[Settings, Feed]:
    """Return settings and feed of a loader, which has decided about batches and their order."""
    for name in ("augment", "flip", "mix"):
        if getattr(options, name) is not None:
            raise ArgumentError(f"train: {name} is given beside a Loader; give it to the Loader")
    if options.batch_size not in (None, loader.batch_size):
        raise ArgumentError(f"train: batch_size is {options.batch_size}, and the Loader's is {loader.batch_size}")
    if is_share(options.validation):
        raise ArgumentError(
            "train: validation is a share, and a Loader is not divided; give two, Loader(..., rows=...), or the data"
        )
    settings = replace(settings_of(GENERAL, None, options), batch_size=loader.batch_size or 0)
    _, parts = with_validation(Share(None), options.validation, options.seed, {"classes": loader.classes})
    return of_own_data("Loader", settings, loader, parts, options)


def of_own_data(
    name: str, settings: Settings, loader: Loader, parts: dict[str, Loader], options: TrainOptions
) -> tuple[Settings, Feed]:
    """Return settings and feed of data of which nothing more is known."""
    if loader.count is None and settings.schedule == ONE_CYCLE and options.schedule is None:
        # A schedule that ends with the run has to know when that is.
        settings = replace(settings, schedule="constant")
    items = "items" if loader.count is None else f"{loader.count} items"
    return settings, Feed(name, f"{name}: {items} to train on", loader, parts)


def named(options: TrainOptions) -> bool:
    """True where one name says how images are varied, the recipe's or a given one."""
    return options.augment is None or isinstance(options.augment, str)


def is_share(validation: Any) -> bool:
    """True for a number."""
    return isinstance(validation, int | float | np.number)


def with_validation(share: Share, validation: Any, seed: int, how: dict[str, Any]) -> tuple[Share, dict[str, Loader]]:
    """Return what is left to train on, and the loader of the validation data, where there are some.

    how: what a loader of validation data is made with.
    """
    if validation is None:
        return share, {}
    if isinstance(validation, Loader):
        return share, {"validation": validation}
    if is_share(validation):
        share, held_out = divided(share, float(validation), seed)
        return share, {"validation": held_out.measured()}
    if isinstance(validation, Dataset):
        own = {"mean": validation.mean, "std": validation.std, "channels": "first"}
        return share, {"validation": Share((validation.images_test, validation.y_test), own).measured()}
    # Names of labels stand for the same numbers.
    classes = how.get("classes") or (None if share.data is None else share.loader(batch_size=1).classes)
    return share, {"validation": Share(validation, {**how, "classes": classes}).measured()}


def divided(share: Share, part: float, seed: int) -> tuple[Share, Share]:
    """Return what is left of the data, and the part of it that is held out, with the same share of each class.

    It follows from the seed. Raises ShapeError for a part that is none, DataError for data that cannot be divided.
    """
    if not 0 < part < 1:
        raise ShapeError(f"train: validation is {part:g}; a share lies between 0 and 1, such as 0.1")
    loader = share.loader(batch_size=1)
    count = loader.source.count
    if count is None:
        raise DataError("train: validation is a share, and a generator cannot be divided; give other data to validate")
    order = np.argsort(Philox(key=[seed, HOLD_OUT_STREAM]).random_raw(count), kind="stable")
    labels = class_labels(loader)
    if labels is not None:
        # Class after class, in random order within each; every so-and-so-many-th of them is held out.
        order = order[np.argsort(labels[order], kind="stable")]
    size = max(1, round(part * count))
    if size >= count:
        raise DataError(f"train: validation is {part:g} of {count} items, which leaves none to train on")
    held_out = np.sort(order[((np.arange(size) + 0.5) * (count / size)).astype(np.int64)])
    rest = np.setdiff1d(np.arange(count), held_out)
    return Share(share.data, {**share.options, "rows": rest}), Share(share.data, {**share.options, "rows": held_out})


def class_labels(loader: Loader) -> Labels | None:
    """Return the class of each item, for a division by classes; None for targets that are no classes.

    A sequence of pairs is read once for this.
    """
    source = loader.source
    if isinstance(source, Arrays):
        labels = source.y
    elif isinstance(source, Items):
        items = source.items
        labels = items.y if isinstance(items, Pairs) else [source.pair(i, items[i])[1] for i in range(len(items))]
    else:
        return None
    if isinstance(labels, tuple | dict):
        return None
    try:
        array = np.asarray(labels)
    except ValueError:
        return None
    if array.ndim != 1 or array.dtype.kind not in "iubU":
        return None
    numbers: Labels = np.unique(array, return_inverse=True)[1]
    return numbers
