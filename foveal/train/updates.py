"""How a run updates its parameters, by its settings: the optimiser, with groups and averages, and its schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from foveal import nn, optim
from foveal.errors import ShapeError
from foveal.kinds import shown
from foveal.optim.hyper import Parameters
from foveal.train.phases import WITHOUT_END, in_phases, layer_groups
from foveal.train.settings import OWN, Options, Settings, TrainOptions


def make_optimizer(net: nn.Module, settings: Settings, options: Options | None = None) -> optim.UpdateRule:
    """Return the optimiser of these settings, without their schedules. Raises ShapeError if it lacks a momentum.

    options: hold an optimiser of the caller's own, or what makes one.
    """
    s, own = settings, None if options is None or isinstance(options.optimizer, str) else options.optimizer
    if isinstance(own, optim.UpdateRule):
        return averaging(own, net, s)
    parameters = groups_of(net, s)
    if own is None:
        optimizer = optim.build(s.optimizer, parameters, lr=s.lr, weight_decay=s.weight_decay)
    else:
        # What makes it decides about the numbers that are not given.
        given = {name: getattr(options, name) for name in ("lr", "weight_decay")}
        optimizer = own(parameters, **{name: value for name, value in given.items() if value is not None})
        if not isinstance(optimizer, optim.UpdateRule):
            raise ShapeError(f"optimizer {s.optimizer} returned {shown(optimizer)}; it has to return an optimiser")
    if own is None or s.clip_norm is not None:
        optimizer.clip_norm = s.clip_norm
    if s.momentum is not None or s.momentum_low is not None:
        if optimizer.momentum is None:
            raise ShapeError(
                f"optimizer {s.optimizer}: has no momentum; leave it out, or choose nesterov or adamw, say"
            )
        if s.momentum is not None:
            optimizer.momentum = s.momentum
    return averaging(optimizer, net, s)


def groups_of(net: nn.Module, settings: Settings) -> Parameters:
    """Return the parameters of a network as an optimiser takes them: in groups with rates of their own, or as they are.

    Raises ShapeError for rates of biases in fine-tuning, which has rates by depth.
    """
    s = settings
    tuned = s.weights is not None or s.pretrained is not None or s.freeze_epochs > 0
    if s.norm_bias_lr is None:
        return layer_groups(net) if tuned else net.parameters()
    if tuned:
        raise ShapeError("norm_bias_lr is given in fine-tuning, where rates rise by depth: leave it out")
    return optim.faster_norm_biases(net, s.norm_bias_lr, s.weight_decay)


def averaging(optimizer: optim.UpdateRule, net: nn.Module, settings: Settings) -> optim.UpdateRule:
    """Return the optimiser with the average that the settings ask for around it."""
    if settings.lookahead is not None:
        return optim.Lookahead(optimizer, statistics=net.buffers())
    return optimizer if settings.ema is None else optim.EMA(optimizer, settings.ema, net.buffers())


def of_optimizer(settings: Settings, optimizer: optim.UpdateRule, options: TrainOptions) -> Settings:
    """Return the settings with the numbers that an optimiser of the caller's own has decided about."""
    if options.optimizer is None or isinstance(options.optimizer, str):
        return settings
    return replace(settings, lr=optimizer.lr, weight_decay=float(optimizer.weight_decay), momentum=optimizer.momentum)


def make_schedules(
    optimizer: optim.UpdateRule, settings: Settings, total: int, epoch: int, own: Callable[[int], float] | None = None
) -> dict[str, Callable[[int], float]]:
    """Return the schedules of a run by hyper-parameter: `total` steps, `epoch` of them in an epoch.

    own: the caller's own schedule of the rate.
    """
    s = settings
    schedules: dict[str, Callable[[int], float]] = {}
    if s.lookahead is not None:
        schedules["alpha"] = optim.schedule.lookahead(s.lookahead, total)
    if own is not None or s.schedule == OWN:
        return schedules if own is None else {"lr": own, **schedules}
    # With the second phase of fine-tuning they begin again, as layers join that were not trained before.
    first = 0 if s.schedule in WITHOUT_END else s.freeze_epochs * epoch
    schedules["lr"] = in_phases(lambda steps: optim.schedule.build(s.schedule, s.lr, steps, epoch), total, first)
    if s.momentum_low is not None:
        high = optimizer.momentum
        assert high is not None
        if not 0 <= s.momentum_low <= high:
            raise ShapeError(f"momentum_low is {s.momentum_low:g}: it has to be from 0 to the momentum, {high:g}")
        low = s.momentum_low
        cycle = optim.schedule.one_cycle_momentum
        schedules["momentum"] = in_phases(lambda steps: cycle(steps, low, high), total, first)
    return schedules
