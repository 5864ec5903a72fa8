"""The command that trains the same again, where the one that was typed gave a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MINUTES = "--minutes"


def in_place_of_minutes(model: str, epochs: int, command: Mapping[str, Any] | None) -> str:
    """Return the options that repeat what was chosen by a time: network, epochs and, of image files, their size.

    command: what `foveal train` gave; its options hold the size. Without the time another size may be chosen.
    """
    options = None if command is None else command.get("options")
    size = options.get("image_size") if isinstance(options, Mapping) else None
    sized = f" --image-size {'x'.join(map(str, size))}" if isinstance(size, list | tuple) else ""
    return f"--model {model} --epochs {epochs}{sized}"


def repeating(words: Sequence[Any], command: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line, with what was chosen by its --minutes in their place.

    facts: the settings, as metrics.json has them. How many epochs fit into a time depends on the machine and its load.
    """
    texts, kept = [str(word) for word in words], []
    model, epochs = facts.get("model"), facts.get("epochs")
    if not any(text.split("=")[0] == _MINUTES for text in texts) or not isinstance(model, str) or not epochs:
        return texts
    chosen = in_place_of_minutes(model, epochs, command).split()
    replaced, is_value = {_MINUTES, *chosen[::2]}, False
    for text in texts:
        if is_value:
            is_value = False
        elif text.split("=")[0] in replaced:
            is_value = "=" not in text
        else:
            kept.append(text)
    return kept + chosen
