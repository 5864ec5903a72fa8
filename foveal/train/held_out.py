"""The training images that a run has held out by a share, found again after its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foveal.data.dataset import Dataset
from foveal.data.loader import Loader
from foveal.errors import DataError
from foveal.train.checkpoint import RUN, load_run
from foveal.train.feed import Share, divided
from foveal.train.run_file import contents


def held_out_of(run: str | Path, data: Dataset) -> Loader | None:
    """Return what walks through the images of `data` that a run was measured by and not trained on.

    run: its folder, or its model file. None where it held out no share of its training images, and where `data` are not
    those that it was trained on, by their contents. Raises as `load_run` does.
    """
    description = load_run(run)[0]
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    try:
        # That of a run that has begun in the same folder, and has no model yet, lies apart.
        facts = json.loads((folder / RUN).read_text(encoding="utf-8"))
        share, seed, part = facts["data"].get("share"), facts["settings"]["seed"], facts["data"]["parts"]["validation"]
        how: dict[str, Any] = {"mean": description.mean, "std": description.std, "channels": "first"}
        whole = Share((data.images_train, data.y_train), how)
        loader = None if share is None else divided(whole, share, seed)[1].measured()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        # Nothing is known of the run but its model.
        return None
    return loader if loader is not None and contents(loader) == part else None
