"""Classifier: a trained network with all that it needs to answer photos; and `load`, which makes one of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from os import PathLike, fspath
from os.path import isfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveal.arguments import checked
from foveal.data.dataset import UNIT, Images
from foveal.data.decoding.preprocessing import Preprocessing, Source, is_pillow
from foveal.data.loader import filled
from foveal.data.statistics import Floats, Normalisation, scaled
from foveal.data.threads import in_order
from foveal.errors import DataError, NumericsError
from foveal.kinds import shown
from foveal.metrics import log_softmax
from foveal.nn.module import Module
from foveal.nn.saving import KEY
from foveal.nn.saving import load as load_module
from foveal.nn.stored import opened
from foveal.train.checkpoint import ModelDescription, load_net, model_path
from foveal.train.evaluate import logits_of
from foveal.train.views import views

#: The label of an image whose class is not certain enough.
NONE = "none of these"
#: Classes of each image that are told, unless another number is asked for.
TOP = 5
# The numbers of images that the network is compiled for; fewer images are filled up to the next one. One image is
# quick, and more than the last take several rounds, so that the memory of a round stays small.
BATCHES = (1, 4, 16)
# Images that are decoded ahead of the network.
_AHEAD = 2 * BATCHES[-1]


class Score(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer to one photo."""

    #: The path that was given; None for what has none.
    source: str | None
    #: The most probable class, or "none of these"; None where there is an error.
    label: str | None
    #: Of the most probable class.
    probability: float = 0.0
    #: The most probable classes, the first one first.
    top: tuple[Score, ...] = ()
    #: True if the most probable class is less probable than its threshold.
    none: bool = False
    #: What is wrong with the image, which could not be read then.
    error: str | None = None


class Classifier:
    """A trained network that is called on photos.

        classifier = foveal.load("runs/flowers")
        print(classifier("daisy.jpg").label)
        for photo in classifier(["daisy.jpg", "rose.png"]): print(photo.source, photo.label, photo.probability)

    A photo is the path of an image file, its content as bytes, a PIL image, or an array: uint8 [H, W], [H, W, C] or
    [C, H, W] of any size, or floats of the network's size, [C, H, W] or [H, W], as the data set has them before they
    are normalised (0 to 1 for images). It is read as the network's training images were.

    Several threads may call one classifier at the same time. It can be pickled, as far as its network can.
    """

    def __init__(self, net: Module, description: ModelDescription) -> None:
        #: The network, in evaluation mode.
        self.net = net.eval()
        #: What the model file says: classes, preprocessing, temperature, thresholds, licence, tta.
        self.description = description
        self._normalised = Normalisation(description.mean, description.std)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return self.description.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos are read. Raises DataError for a network that was not trained on what image files hold."""
        return self.description.reading

    def __repr__(self) -> str:
        shape = "x".join(map(str, (self.description.channels, *self.description.size)))
        name = self.description.model or type(self.net).__name__
        return f"Classifier({name} of {self.description.data}: {shape} -> {len(self.classes)} classes)"

    @checked
    def __call__(self, photos: Any, *, top: int = TOP, none_below: float | None = None, tta: str | None = None) -> Any:
        """Return the Prediction of one photo, or a list of them, in order, of several.

        photos: one photo; a list, tuple or iterator of photos; or a batch, an array of four axes. top: how many classes
        are told of each. none_below: the least probability of an answer, from 0 to 1; the model file's thresholds, if
        it has some, unless it is given. Probabilities are calibrated by the model's temperature. tta: test-time
        augmentation, as of `train.predict`; the model file's if it has one and it is not given, "none" for none. An
        answer takes as many times as long as there are views.

        A single photo that cannot be read raises DataError; one of several has its `error`, and the others are
        answered.
        """
        if is_one(photos):
            (answer,) = self.stream([photos], top=top, none_below=none_below, tta=tta)
            if answer.error is not None:
                raise DataError(answer.error)
            return answer
        if not isinstance(photos, Iterable):
            raise DataError(f"{shown(photos)} is no photo; give a path, an array uint8 [H, W, C], or a list of them")
        return list(self.stream(photos, top=top, none_below=none_below, tta=tta))

    def stream(
        self, photos: Iterable[Source], *, top: int = TOP, none_below: float | None = None, tta: str | None = None
    ) -> Iterator[Prediction]:
        """Yield the Prediction of each photo, in order, of any number of them.

        Photos are decoded in threads while the network computes, and never more than a few are in memory. Those that
        cannot be read have an `error`. top, none_below, tta: as in a call.
        """
        thresholds = self.thresholds(none_below)
        if top < 1:
            raise DataError(f"top is {top}; give how many classes are told of each image, 1 or more")
        photos = iter(photos)
        first = list(islice(photos, 2))
        # A single photo needs no threads. Else there is a batch to compute with while the next one is decoded.
        several = len(first) > 1
        read = in_order(self.read, chain(first, photos), ahead=_AHEAD) if several else map(self.read, first)
        while batch := list(islice(read, BATCHES[-1])):
            pixels = [x for _, x in batch if not isinstance(x, DataError)]
            probability = iter(self.probabilities(np.stack(pixels), tta) if pixels else ())
            for source, x in batch:
                if isinstance(x, DataError):
                    yield Prediction(source, None, error=str(x))
                else:
                    yield self.answer(source, next(probability), top, thresholds)

    def read(self, photo: Source) -> tuple[str | None, Floats | DataError]:
        """Return the path of a photo, None where it has none, and its pixels [C, H, W], or why they cannot be read."""
        path = fspath(photo) if isinstance(photo, str | PathLike) else None
        shape = (self.description.channels, *self.description.size)
        try:
            if isinstance(photo, np.ndarray):
                array = photo[None] if photo.ndim == 2 else photo
                # As the data set has it.
                if array.shape == shape and (array.dtype == np.uint8 or array.dtype.kind == "f"):
                    return path, scaled(self.checked_floats(array))
            return path, scaled(self.preprocessing.read(photo))
        except DataError as error:
            return path, error

    def checked_floats(self, array: NDArray[Any]) -> Images:
        """Return an array of the network's size. Raises DataError for floats that are NaN, or scaled otherwise."""
        if array.dtype == np.uint8:
            return array
        x = array.astype(np.float32)
        low, high = float(x.min()), float(x.max())
        if not np.isfinite(low + high):
            raise DataError("the image holds NaN or infinity; every pixel has to be finite")
        if self.description.value_range == UNIT and not (low >= 0 and high <= 1):
            raise DataError(
                f"the image holds floats from {low:g} to {high:g}, and the network was trained on 0 to 1; give uint8"
                " from 0 to 255, or floats divided by 255, not normalised"
            )
        return x

    def probabilities(self, x: Images, tta: str | None = None) -> NDArray[np.float64]:
        """Return the calibrated probabilities [n, K] of images x [n, C, H, W] of the network's size.

        x: bytes, or floats as in the data set, not normalised. Raises DataError for images of another size, and
        NumericsError if an output is NaN or infinite.
        """
        shape = (self.description.channels, *self.description.size)
        if np.ndim(x) != 4 or x.shape[1:] != shape:
            raise DataError(f"images of shape {list(np.shape(x))}; the network takes [n, {', '.join(map(str, shape))}]")
        if not len(x):
            return np.empty((0, len(self.classes)))
        rounds = [x[start : start + BATCHES[-1]] for start in range(0, len(x), BATCHES[-1])]
        logits = np.concatenate([self.logits(part, tta) for part in rounds])
        if logits.shape[1] != len(self.classes):
            raise DataError(
                f"the model returns {logits.shape[1]} numbers for an image and was trained on {len(self.classes)}"
                " classes; train a network with one output for each class"
            )
        if not np.isfinite(logits).all():
            raise NumericsError("the network's outputs hold NaN or infinity: its parameters are not usable")
        return np.exp(log_softmax(logits / self.description.temperature))

    def logits(self, x: Images, tta: str | None = None) -> Floats:
        """Return what the network returns for at most BATCHES[-1] images, [n, K], as the mean over views of each."""
        size = next(size for size in BATCHES if size >= len(x))
        normalised = filled(self._normalised(x), size)
        seen = views(tta or self.description.tta)
        return seen.mean([logits_of(self.net(view(normalised))) for view in seen])[: len(x)]

    def thresholds(self, none_below: float | None) -> NDArray[np.float64]:
        """Return the least probability of an answer, for each class [K]; 0 where every image gets a class."""
        if none_below is not None:
            if not 0 <= none_below <= 1:
                raise DataError(f"none_below is {none_below:g}; give a probability from 0 to 1")
            return np.full(len(self.classes), none_below)
        stored = self.description.thresholds
        return np.zeros(len(self.classes)) if stored is None else np.array(stored)

    def answer(
        self, source: str | None, probability: NDArray[np.float64], top: int, thresholds: NDArray[np.float64]
    ) -> Prediction:
        """Return the answer by the probabilities [K] and thresholds [K] of the classes."""
        order = np.argsort(-probability, kind="stable")[:top]
        scores = tuple(Score(self.classes[k], float(probability[k])) for k in order)
        none = bool(probability[order[0]] < thresholds[order[0]])
        return Prediction(source, NONE if none else scores[0].label, scores[0].probability, scores, none)


def is_one(photos: Any) -> bool:
    """True for one photo; False for several, and for what is none."""
    if isinstance(photos, np.ndarray):
        return photos.ndim < 4
    return isinstance(photos, str | bytes | PathLike) or is_pillow(photos)


@checked
def load(path: str | Path, net: Module | None = None, *, cls: type | Sequence[type] = ()) -> Module | Classifier:
    """Return what a file holds: of a training run a Classifier, of what `net.save(path)` wrote the network.

        classifier = foveal.load("runs/flowers")
        print(classifier("daisy.jpg").label)

        net = foveal.load("net.safetensors")
        logits = net.eval()(images)

    path: the folder of a run, its model file, or a file of `net.save`. A Classifier is called on photos, see
    `foveal.train.Classifier`; its network is `classifier.net`. A run on arrays, of whose classes nothing is known, is a
    network. net: a network that is built already, into which all is loaded, and which is returned. cls: the class of
    the network, or several classes of its parts, where they cannot be found by their import paths: those of a notebook
    or a program that is run as `__main__` are found there only, and those of a function never.

    A file may come from anywhere, so nothing that it names is imported. Its classes are layers of foveal.nn, subclasses
    of nn.Module in modules that are imported already (import yours first), and those of `cls`; they are called with the
    arguments in the file, first without memory. Nothing is unpickled. A network is as it was saved, weights, buffers,
    frozen parameters, and in the mode in which it was: net.eval() before it is used, net.train() to go on.

    Raises DataError where there is no such file; StateError where it is damaged, holds weights alone, or names a class
    that is not found, and where weights do not fit.
    """
    place = model_path(Path(path))
    if net is None and isfile(place) and is_run(place):
        return Classifier(*load_net(path, cls=cls))
    return load_module(path, net, cls=cls)


def is_run(path: Path) -> bool:
    """True for a model file with the description of a run; False for all others, damaged ones too."""
    with opened(path) as file:
        text = (file.metadata() or {}).get(KEY, "")
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and "model" in entry
