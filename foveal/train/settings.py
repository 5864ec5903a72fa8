"""What decides about a run: the caller's options and the recipe put together, and the parts that are built from them.

An option of `foveal train` is a field of `Options`, a command line option in cli/train.py, and whatever reads it from
the settings. If its default depends on the data, `choose` derives it and `Settings` says so in its type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from inspect import Parameter, get_annotations, signature, unwrap
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast

import foveal
from foveal import nn, optim
from foveal.arguments import checked
from foveal.data.dataset import Dataset
from foveal.data.transforms.mixing import Mixing
from foveal.distributed.ranks import Ranks
from foveal.errors import ArgumentError, ShapeError
from foveal.kinds import shown
from foveal.names import meant
from foveal.nn import models
from foveal.passes.recompute import FAST, MEMORY
from foveal.strides import Ndarray
from foveal.train.checkpoint import ModelDescription
from foveal.train.phases import fine_tuned
from foveal.train.recipes import Preset, Recipe, recipe_for
from foveal.train.views import NONE, views

# Auxiliary outputs count too if the model has some.
LOSS = nn.AuxiliaryLoss(nn.CrossEntropyLoss())
ONE_CYCLE = "one-cycle"
# What stands for the schedules of an optimiser of the caller's own.
OWN = "the optimizer's"
# Options that an optimiser holds.
OF_OPTIMIZER = ("lr", "momentum", "momentum_low", "weight_decay", "clip_norm", "norm_bias_lr")

P = ParamSpec("P")
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller of a training run may choose. None stands for the recipe's choice, or for leaving it out."""

    #: A name of `nn.models.NAMES`, or a network of one's own.
    model: str | nn.Module | None = None
    #: Passes through the training images.
    epochs: int | None = None
    #: Images per step.
    batch_size: int | None = None
    #: Learning rate; with a schedule that rises, the rate at its peak. "auto" finds it by a range test before the run.
    lr: float | Literal["auto"] | None = None
    #: A name of `optim.NAMES`; an optimiser that was made for the network; or what makes one of its parameters, such as
    #: `optim.AdamW`.
    optimizer: str | optim.UpdateRule | Callable[..., optim.UpdateRule] | None = None
    #: Of the learning rate: a name of `optim.schedule.NAMES`, or a function of the update's number; one cycle if not
    #: given, or the optimiser's own schedules where it is no name.
    schedule: str | Callable[[int], float] | None = None
    #: Momentum, or Adam's first beta; the optimiser's default if not given.
    momentum: float | None = None
    #: With one cycle: the momentum moves against the rate, and has this value at the rate's peak.
    momentum_low: float | None = None
    weight_decay: float | None = None
    #: The largest norm of all gradients together; a larger one is scaled down to it.
    clip_norm: float | None = None
    #: Decay of a moving average of the parameters, such as 0.999; the average is then what is tested and stored.
    ema: float | None = None
    #: Decay per step, at the end of the run, of a moving average of the parameters, to which they go back every 5 steps
    #: (optim.Lookahead with schedule.lookahead); the average is what is tested and stored.
    lookahead: float | None = None
    #: The rate of the biases of batch norms, as a multiple of that of the others (optim.faster_norm_biases).
    norm_bias_lr: float | None = None
    #: Let the first convolution whiten patches of the training images, with filters that are not trained, and a bias
    #: that is trained in so many epochs at the start (nn.whitening); 0 leaves it out.
    whiten: int | None = None
    #: Of starting values, order of the images, augmentation and dropout.
    seed: int = 0
    #: Native threads, for this run only; those of `foveal.get_threads()` if not given.
    threads: int | None = None
    #: "fast", or "low" to compute cheap values again for the gradients instead of storing them.
    memory: str = FAST
    #: Batches per update: their gradients are added up, as of one batch of so many times the size.
    accumulate: int = 1
    #: Equal parts of a batch that are taken one after the other, or by several ranks, with the same bits for any number
    #: of these (foveal.distributed); 8 where there are ranks and it is not given, else batches are taken whole.
    shards: int | None = None
    #: "float16" or "int8" for gradients that ranks send in 2 bytes or 1 each, in place of 4, with error feedback.
    compress: str | None = None
    #: True to let batch norms normalise all shards of a batch as one; each rank then holds all of its shards at once.
    sync_batch_norm: bool = False
    #: Random changes of training images: a name of `data.augment.AUGMENTATIONS`, or "none"; the recipe's if not given.
    augment: Any = None
    #: False to leave mirror images out of the augmentation; by the name of the data if not given.
    flip: bool | None = None
    #: Images mixed with others of their batch: "mixup", "cutmix", "mixup+cutmix", or an object of data.transforms.
    mix: str | Mixing | None = None
    #: Test-time augmentation of the trained model: a name of `train.views.VIEWS`, or "none"; the recipe's if not given.
    #: It is stored in the model file, and measured once more at the end. Each answer then takes as many times as long.
    tta: str | None = None
    #: "fast", "best" or "airbench94": the recipe in a shorter and in a longer form, and that of one network.
    preset: Preset | None = None
    #: How long the run may take: a network and a number of epochs that fit are chosen. What is chosen depends on the
    #: speed of the machine; the settings that were chosen, given as options, repeat the run to the bit.
    minutes: float | None = None
    #: True to let classes of few images count more: the loss is nn.ClassBalancedFocalLoss.
    balance: bool = False
    #: Epochs without a better validation accuracy after which the run ends; the network is then that of the best epoch.
    patience: int | None = None
    #: The share of the target that is spread over all classes, such as 0.1.
    label_smoothing: float | None = None
    # Fine-tuning, see train/start.py and train/phases.py.
    #: Weights to start from: a safetensors file with torchvision's names or timm's, or the folder of a run.
    weights: str | Path | None = None
    #: Weights to start from, by the name of a model, from the Hugging Face hub; or a repository there, "owner/name".
    pretrained: str | None = None
    #: Epochs at the start that train the last layer alone; with weights and another last layer a quarter of all.
    freeze_epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """All options of `train`: what decides about the run, and where its results go."""

    #: Folder for the model, the log and the metrics; no files are written if not given.
    out: str | Path | None = None
    #: True to print nothing.
    quiet: bool = False
    #: What the network is measured by after each epoch: (x, y), a Loader, a Dataset (its test images), or the share of
    #: the training data that is held out, such as 0.1, drawn by the seed with the same share of each class.
    validation: Any = None
    #: Minutes between checkpoints within an epoch; 0 writes one after each step.
    checkpoint_minutes: float = 3.0


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """All that `train` takes: the options of `foveal train`, and what only a program can give."""

    #: The network, as `model`: a network of one's own, or a name.
    net: nn.Module | str | None = field(default=None, kw_only=False)
    #: One of nn, or a function loss(output, target) written with foveal.ops; cross-entropy if not given.
    loss: Callable[..., Any] | None = None
    #: As in `Options`; or one of `data.transforms`, a function (x, rng) -> x of batches before they are normalised, or
    #: a list of these.
    augment: Any = None
    #: Functions of an epoch's values, and objects of train.Callback, in the order in which they are called.
    callbacks: Any = ()
    #: More numbers of each epoch, by name: functions (outputs, targets) -> number of arrays.
    metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    #: What the run was called with, for run.json: `foveal train` gives its words, its options and the path of the data.
    command: Mapping[str, Any] | None = None
    #: When `minutes` began, as time.perf_counter() has it: before the data were read, say. The start if not given.
    began: float | None = None
    #: The processes that share the training, of `foveal.distributed.ranks()`. All of them call `train` alike and return
    #: the same history; rank 0 alone writes, prints and calls the callbacks.
    ranks: Ranks | None = None
    #: What train.SaveState wrote, or its content: the training goes on from there. Or the folder of a run that has not
    #: ended: it goes on in that folder, unless `out` names another.
    resume: Any = None


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """Everything that decides about a run: the options, with a value for those that depend on the data.

    The fields here are options that are always known now, or that the recipe alone decides about.
    """

    #: None for a network of the caller's own.
    model: str | None
    epochs: int
    batch_size: int
    #: Until the range test has found it, that of the recipe.
    lr: float
    momentum: float | None
    ema: float | None
    lookahead: float | None
    norm_bias_lr: float | None
    whiten: int | None
    label_smoothing: float
    optimizer: str
    schedule: str
    weight_decay: float
    threads: int
    augment: str | None
    mix: str | None
    #: None for the image alone.
    tta: str | None
    weights: str | None
    freeze_epochs: int


def choose(data: Dataset, options: Options) -> Settings:
    """Return the settings of a run: the options, and the recipe's choice for what they leave open.

    Raises ShapeError for a name that is not known, and for options that do not go together.
    """
    return settings_of(recipe_of(data, len(data.images_train), options), len(data.images_train), options)


def recipe_of(data: Dataset, images: int | None, options: Options) -> Recipe:
    """Return the recipe for so many training images of a data set; for fine-tuning where weights are given."""
    model, optimizer = options.model, options.optimizer
    recipe = recipe_for(
        data.size,
        images,
        len(data.classes),
        # The network is chosen by the time if it is not given.
        options.minutes if options.model is None else None,
        options.preset,
        None if options.balance else data.y_train,
        data.channels,
        foveal.get_threads() if options.threads is None else options.threads,
        models.canonical(model) if isinstance(model, str) else None if model is None else name_of(model),
        # What the caller makes is an optimiser of its own, whatever its name.
        optimizer if optimizer is None or isinstance(optimizer, str) else OWN,
    )
    return recipe if options.weights is None and options.pretrained is None else fine_tuned(recipe, images)


def settings_of(recipe: Recipe, images: int | None, options: Options) -> Settings:
    """Return the settings by a recipe, for so many training images; None where their number is not known."""
    model = recipe.model if options.model is None else options.model
    optimizer = recipe.optimizer if options.optimizer is None else options.optimizer
    own = None if isinstance(optimizer, str) else optimizer
    recipe = fitting_parts(recipe, options)
    known = {field.name: getattr(options, field.name) for field in fields(Options)}
    # The recipe's batch may be larger than a small data set.
    batch_size = in_shards(recipe.batch_size if images is None else min(recipe.batch_size, images), options)
    settings = Settings(
        # Options that Settings does not declare again are copied.
        **{name: value for name, value in known.items() if name not in get_annotations(Settings)},
        model=models.canonical(model) if isinstance(model, str) else None,
        epochs=recipe.epochs if options.epochs is None else options.epochs,
        batch_size=batch_size if options.batch_size is None else options.batch_size,
        lr=default_lr(optimizer, recipe) if options.lr is None or options.lr == "auto" else options.lr,
        # The recipe's momentum belongs to its optimiser.
        momentum=options.momentum if options.momentum is not None or optimizer != recipe.optimizer else recipe.momentum,
        ema=recipe.ema if options.ema is None else options.ema,
        lookahead=(recipe.lookahead if options.lookahead is None else options.lookahead) or None,
        norm_bias_lr=recipe.norm_bias_lr if options.norm_bias_lr is None else options.norm_bias_lr,
        whiten=(recipe.whiten if options.whiten is None else options.whiten) or None,
        label_smoothing=smoothing(recipe, options),
        optimizer=optimizer if isinstance(optimizer, str) else name_of(optimizer),
        schedule=default_schedule(own, recipe) if options.schedule is None else name_of(options.schedule),
        weight_decay=recipe.weight_decay if options.weight_decay is None else options.weight_decay,
        threads=foveal.get_threads() if options.threads is None else options.threads,
        augment=recipe.augment if options.augment is None else names_of(options.augment),
        mix=None if options.mix is None else name_of(options.mix),
        tta=recipe.tta if options.tta is None else None if options.tta == NONE else options.tta,
        weights=None if options.weights is None else str(options.weights),
        freeze_epochs=options.freeze_epochs or 0,
    )
    check(settings, options)
    return settings


def fitting_parts(recipe: Recipe, options: Options) -> Recipe:
    """Return the recipe without what belongs to its network or its optimiser, where there is another one."""
    given = options.model
    same = given is None or (isinstance(given, str) and models.canonical(given) == recipe.model)
    if not same or options.optimizer not in (None, recipe.optimizer):
        recipe = replace(recipe, norm_bias_lr=None)
    # An average that is asked for takes the place of the recipe's.
    if options.ema is not None:
        recipe = replace(recipe, lookahead=None)
    if options.lookahead:
        recipe = replace(recipe, ema=None)
    return recipe if same else replace(recipe, whiten=None)


def in_shards(batch_size: int, options: Options) -> int:
    """Return the largest batch size up to one that is chosen, and not given, that can be divided into the shards."""
    shards = options.shards or 1
    return batch_size // shards * shards or batch_size


def name_of(value: object) -> str:
    """Return a name as it is, and that of a function, a class or an object's class."""
    return value if isinstance(value, str) else str(getattr(value, "__name__", type(value).__name__))


def names_of(augment: Any) -> str:
    """Return the names of augmentations, of one or of a list."""
    parts = [augment] if isinstance(augment, str) or callable(augment) else augment
    return "+".join(map(name_of, parts))


def default_schedule(optimizer: object, recipe: Recipe) -> str:
    """Return the schedule where none is given; an optimiser of the caller's own follows its own ones."""
    return recipe.schedule or ONE_CYCLE if optimizer is None else OWN


def default_lr(optimizer: str | Callable[..., Any] | optim.UpdateRule, recipe: Recipe) -> float:
    """Return the recipe's learning rate, or the optimiser's own if it is not the recipe's optimiser."""
    if not isinstance(optimizer, str):
        # Of what makes an optimiser, the rate is known when that is made.
        return optimizer.lr if isinstance(optimizer, optim.UpdateRule) else recipe.lr
    _one_of("optimizer", optimizer, optim.NAMES)
    return recipe.lr if optimizer == recipe.optimizer else optim.UpdateRule.registry[optimizer].default_lr


def smoothing(recipe: Recipe, options: Options) -> float:
    """Return the label smoothing: the recipe's if none is given, and none with a balanced loss."""
    if options.label_smoothing is not None:
        return options.label_smoothing
    return 0.0 if options.balance else recipe.label_smoothing


def make_loss(settings: Settings, counts: Ndarray | None) -> Callable[..., Any]:
    """Return the loss that the settings name. counts: how many training images each class has, for --balance.

    Raises ShapeError for a balanced loss where the counts are not known.
    """
    if not settings.balance and not settings.label_smoothing:
        return LOSS
    if not settings.balance:
        return nn.AuxiliaryLoss(nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing))
    if counts is None:
        raise ShapeError("balance: the number of images of each class is not known; it is for a Dataset")
    return nn.AuxiliaryLoss(nn.ClassBalancedFocalLoss(counts))


def check(settings: Settings, options: Options) -> None:
    """Raise ShapeError for names that are not known, for numbers of 0 or less, and for what does not go together."""
    s = settings
    # What is given as an object or a function has no name that could be wrong.
    if options.optimizer is None or isinstance(options.optimizer, str):
        _one_of("optimizer", s.optimizer, optim.NAMES)
    if isinstance(options.schedule, str):
        _one_of("schedule", s.schedule, optim.schedule.NAMES)
    _one_of("memory", s.memory, MEMORY)
    for what, value in (("epochs", s.epochs), ("lr", s.lr), ("threads", s.threads), ("accumulate", s.accumulate)):
        if not value > 0:
            raise ShapeError(f"{what} is {value}: it must be more than 0")
    if s.shards is not None and (s.shards < 1 or s.batch_size % s.shards):
        near = max(1, round(s.batch_size / max(1, s.shards))) * max(1, s.shards)
        raise ShapeError(
            f"shards is {s.shards}: a batch of {s.batch_size} images is not divided into so many equal parts; choose"
            f" batches of {near}, or other shards"
        )
    if not 0 <= s.freeze_epochs <= s.epochs:
        raise ShapeError(f"freeze_epochs is {s.freeze_epochs}: it has to be from 0 to {s.epochs}, the number of epochs")
    if s.balance and s.mix is not None:
        raise ShapeError(
            "balance and mix are both given: balancing needs labels, and mixed images have shares of classes"
        )
    if s.momentum_low is not None and s.schedule != ONE_CYCLE:
        raise ShapeError(
            f"momentum_low is {s.momentum_low:g} with schedule {s.schedule}: momentum is cycled with {ONE_CYCLE} only"
        )
    if not 0 <= s.label_smoothing <= 1:
        raise ShapeError(f"label_smoothing is {s.label_smoothing:g}: it has to be from 0 to 1")
    if s.balance and s.label_smoothing:
        raise ShapeError("balance and label_smoothing are both given, and a loss has one of them; leave one out")
    views(s.tta)
    if options.flip is False and options.tta is not None and "flip" in options.tta:
        raise ShapeError(
            f"tta {options.tta} and no flip are both given, where a mirror image is of another class: choose crops"
        )
    check_parts(s)
    if s.patience is not None and s.patience < 0:
        raise ShapeError(f"patience is {s.patience}: it is a number of epochs, 0 or more")
    if options.lr == "auto" and s.accumulate > 1:
        raise ShapeError("lr auto: the range test changes the rate after each batch, so it cannot accumulate; give lr")
    if isinstance(options.optimizer, optim.UpdateRule):
        given = [name for name in OF_OPTIMIZER if getattr(options, name) is not None]
        if given:
            raise ShapeError(f"{given[0]} is given beside an optimizer that is made already: set it there")


def check_parts(settings: Settings) -> None:
    """Raise ShapeError for what a recipe may add and what does not go together with it."""
    s = settings
    if s.lookahead is not None and not 0 < s.lookahead < 1:
        raise ShapeError(f"lookahead is {s.lookahead:g}: it is a decay, from 0 to below 1, such as 0.95")
    if s.lookahead is not None and s.ema is not None:
        raise ShapeError("lookahead and ema are both averages of the parameters; leave one out")
    if s.norm_bias_lr is not None and not s.norm_bias_lr > 0:
        raise ShapeError(f"norm_bias_lr is {s.norm_bias_lr:g}: it is a multiple of the rate, more than 0, such as 64")
    if s.whiten is not None and s.whiten < 0:
        raise ShapeError(f"whiten is {s.whiten}: it is a number of epochs, 0 or more")
    if s.whiten is not None and (s.weights is not None or s.pretrained is not None):
        raise ShapeError("whiten would replace the first filters of the weights that the run starts from: leave it out")


def _one_of(what: str, name: str, names: Collection[str]) -> None:
    """Raise ShapeError that lists the names unless `name` is one of them."""
    if name not in names:
        raise ShapeError(f"{what} {name!r}{meant(name, names)}: choose from {', '.join(names)}")


def misplaced(given: tuple[object, ...]) -> str:
    """What is wrong where more than data and a network are given without names. given: all that follows the data."""
    if not isinstance(given[0], nn.Module | str | None):
        return (
            "takes data, a network and options by name, such as seed=1; images and labels are one argument, (x, y),"
            " foveal.data.load reads a Dataset, foveal.data.from_arrays makes one"
        )
    named = "seed=1"
    if isinstance(given[1], optim.UpdateRule):
        named = "optimizer=optimizer"
    elif isinstance(given[1], nn.Loss):
        named = "loss=loss"
    return f"takes data and a network, and all else by name, such as {named}; the third argument is {shown(given[1])}"


def takes_options(
    make: Callable[P, Given],
) -> Callable[[Callable[[Any, Given], Result]], Callable[Concatenate[Any, P], Result]]:
    """Return a decorator that makes function(data, options) callable as function(data, net, name=value, ...).

    make: the class of the options. Its parameters become those of the function, for type checkers and editors as well
    as for `inspect.signature` and `help`, so that no option is written down a second time. The function raises
    ArgumentError that lists the options if it is called with a name that is none of them.
    """

    def decorate(function: Callable[[Any, Given], Result]) -> Callable[Concatenate[Any, P], Result]:
        # Of a dataclass these are its fields, with their types and defaults.
        options = signature(make).parameters
        # An error names the function, as that is what was called.
        cls = cast(Any, make)
        fill = checked(unwrap(cls.__init__), function.__name__)
        run = checked(function, function.__name__)

        @wraps(function)
        def with_options(data: Any, *args: P.args, **kwargs: P.kwargs) -> Result:
            if len(args) > 1 or not isinstance((args or (None,))[0], nn.Module | str | None):
                raise ArgumentError(f"{function.__name__}: {misplaced(args)}")
            unknown = [name for name in kwargs if name not in options]
            if unknown:
                raise ArgumentError(
                    f"{function.__name__}: there is no option {unknown[0]!r}{meant(unknown[0], options)}; the options"
                    f" are {', '.join(options)}"
                )
            given = object.__new__(cls)
            fill(given, *args, **kwargs)
            return run(data, given)

        # What `inspect` and `help` show: data, then the options.
        shown = signature(function)
        data = Parameter("data", Parameter.POSITIONAL_OR_KEYWORD, annotation=shown.parameters["data"].annotation)
        parameters = [data, *options.values()]
        with_options.__signature__ = shown.replace(parameters=parameters)  # type: ignore[attr-defined]
        # Type checkers have no way to say that `data` may be given by name too.
        return cast(Callable[Concatenate[Any, P], Result], with_options)

    return decorate


def build_net(settings: Settings, data: Dataset | ModelDescription) -> nn.Module:
    """Return the network that the settings name, for the images and classes of `data`."""
    assert settings.model is not None
    return models.build(
        settings.model, channels=data.channels, size=data.size, classes=len(data.classes), seed=settings.seed
    )


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Let programs use that many native threads inside of the block."""
    before = foveal.get_threads()
    foveal.set_threads(count)
    try:
        yield
    finally:
        foveal.set_threads(before)
