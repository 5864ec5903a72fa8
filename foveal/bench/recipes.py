"""Recipes against searches: what `foveal train` chooses for small sets, beside the best of runs with other numbers.

The sets are cut from data at hand, with a few images per class; the test images are a fixed part of theirs. Each run is
one line of JSON in a file, and what stands there is not run again, so that a search can be interrupted and go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

import foveal
from foveal import nn, optim
from foveal.data import Dataset, Loader, augmentation, from_arrays, load
from foveal.data.augment import mirrors_keep_class
from foveal.errors import NumericsError
from foveal.nn import models
from foveal.train.evaluate import evaluate
from foveal.train.recipes import Recipe, recipe_for

# A long tail: the largest class has so many images, the smallest a fiftieth.
TAIL, RATIO = 250, 50
# The folder and the images per class of each set; None for the whole of it, 0 for the long tail.
SETS: dict[str, tuple[str, int | None]] = {
    "digits": ("digits", None),
    "cifar10, 10 per class": ("cifar10", 10),
    "cifar10, 50 per class": ("cifar10", 50),
    "cifar10, 100 per class": ("cifar10", 100),
    "fashion-mnist, 20 per class": ("fashion-mnist", 20),
    "fashion-mnist, 100 per class": ("fashion-mnist", 100),
    "fashion-mnist, long tail": ("fashion-mnist", 0),
    "mnist, 20 per class": ("mnist", 20),
}
TEST_IMAGES = 2000
# The search: all combinations in an order drawn once.
LRS, BATCHES, DECAYS, LENGTHS = (0.02, 0.05, 0.1, 0.2, 0.4), (16, 32, 64, 128), (1e-4, 5e-4, 2e-3, 5e-3), (0.5, 1.0)
# Runs take the recipe's augmentation and this one in turn; in one of so many there is none.
STRONGER, PLAIN_EVERY = "trivial", 6


@dataclass(frozen=True)
class Numbers:
    """What a run is trained with."""

    lr: float
    batch_size: int
    weight_decay: float
    #: Training images that are seen, as a share of those of the recipe.
    length: float = 1.0
    #: A name of data.AUGMENTATIONS, or "none".
    augment: str = "none"


def numbers_of(recipe: Recipe) -> Numbers:
    """Return the numbers of a recipe."""
    return Numbers(recipe.lr, recipe.batch_size, recipe.weight_decay, augment=recipe.augment or "none")


def searched(recipe: Recipe, runs: int) -> list[Numbers]:
    """Return the numbers of so many runs, the same each time."""
    every = [Numbers(*numbers) for numbers in product(LRS, BATCHES, DECAYS, LENGTHS)]
    drawn = (every[i] for i in np.random.default_rng(0).permutation(len(every))[:runs])
    ways = recipe.augment or "none", STRONGER
    return [
        replace(numbers, augment=ways[place % 2] if place % PLAIN_EVERY else "none")
        for place, numbers in enumerate(drawn, 1)
    ]


def cut(data: Dataset, name: str, per_class: int | None) -> Dataset:
    """Return a part of a data set: so many images of each class drawn once, and TEST_IMAGES of its test images."""
    rng, classes = np.random.default_rng(0), len(data.classes)
    rows: list[Any] = []
    for k in range(classes):
        own = rng.permutation(np.flatnonzero(data.y_train == k))
        tail = round(TAIL * RATIO ** (-k / max(1, classes - 1)))
        rows.append(own if per_class is None else own[: per_class or tail])
    train, test = np.sort(np.concatenate(rows)), np.sort(rng.permutation(len(data.y_test))[:TEST_IMAGES])
    parts = data.images_train[train], data.y_train[train], data.images_test[test], data.y_test[test]
    return from_arrays(name, *parts, classes=data.classes)


def accuracy(data: Dataset, recipe: Recipe, numbers: Numbers, seed: int) -> float:
    """Return the test accuracy of a run; 0 where it diverges."""
    batch = min(numbers.batch_size, len(data.y_train))
    net = models.build(recipe.model, channels=data.channels, size=data.size, classes=len(data.classes), seed=seed)
    augment = augmentation(numbers.augment, data.size, mirrors_keep_class(data.name))
    loader = Loader(data, batch_size=batch, seed=seed, shuffle=True, drop_last=True, augment=augment)
    epochs = max(1, round(numbers.length * recipe.steps * recipe.batch_size / (len(loader) * batch)))
    optimizer = optim.build(recipe.optimizer, net.parameters(), lr=numbers.lr, weight_decay=numbers.weight_decay)
    optimizer.schedule(lr=optim.schedule.one_cycle(numbers.lr, epochs * len(loader)))
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optimizer, seed=seed)
    try:
        for epoch in range(epochs):
            net.train()
            for x, labels in loader.epoch(epoch):
                step(x, labels)
        return evaluate(net, data.images_test, data.y_test, mean=data.mean, std=data.std)["accuracy"]
    except NumericsError:
        return 0.0


def stored(lines: Path) -> dict[str, float]:
    """Return the accuracies of the runs in a file, by what they were trained with."""
    if not lines.is_file():
        return {}
    found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    return {key_of(line["set"], line["seed"], line["numbers"]): line["accuracy"] for line in found}


def key_of(name: str, seed: int, numbers: dict[str, Any]) -> str:
    """Return what a run is known by."""
    return json.dumps([name, seed, numbers])


def rows(folder: Path, lines: Path, names: tuple[str, ...], runs: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield a row for each set: the recipe's accuracy, the best of the search with its numbers, and the difference.

    folder: holds a folder for each of the data sets. lines: where each run is written.
    """
    known = stored(lines)
    whole = {source: load(source if source == "digits" else folder / source) for source in {SETS[n][0] for n in names}}
    data = {name: cut(whole[SETS[name][0]], name, SETS[name][1]) for name in names}
    recipe = {name: recipe_for(part.size, len(part.y_train)) for name, part in data.items()}
    # The recipe comes first, then the others: one run of each set after the other.
    tried = {name: [numbers_of(r), *searched(r, runs)] for name, r in recipe.items()}
    for place, name in product(range(runs + 1), names):
        run = asdict(tried[name][place])
        if (key := key_of(name, seed, run)) not in known:
            known[key] = accuracy(data[name], recipe[name], tried[name][place], seed)
            line = {"set": name, "seed": seed, "numbers": run, "accuracy": known[key]}
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    for name in names:
        ours, *others = ((known[key_of(name, seed, asdict(numbers))], numbers) for numbers in tried[name])
        best, numbers = max(others, key=itemgetter(0))
        row = {
            "set": name,
            "images": len(data[name].y_train),
            "recipe": ours[0],
            "best": best,
            "difference": ours[0] - best,
        }
        yield row | asdict(numbers)
