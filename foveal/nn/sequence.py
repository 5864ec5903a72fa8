"""Layers for sequences [N, C, L] compute on images of one row."""

from typing import Any

from foveal.errors import ShapeError


def as_images(layer: str, x: Any) -> Any:
    """Sequences [N, C, L] as images [N, C, 1, L]."""
    if len(x.shape) != 3:
        raise ShapeError(f"{layer}: takes sequences [N, C, L], got shape {x.shape}")
    return x.reshape(*x.shape[:2], 1, x.shape[2])


def as_sequences(y: Any) -> Any:
    """Images [N, C, 1, L] as sequences [N, C, L]."""
    return y.reshape(*y.shape[:2], y.shape[3])
