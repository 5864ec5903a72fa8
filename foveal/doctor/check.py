"""`check`: one look at each image of a data set, and everything that this says about it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from foveal.data.dataset import Dataset
from foveal.data.scanning.image_files import ImageFiles
from foveal.data.threads import Bar
from foveal.doctor.classes import counts_of, of_classes
from foveal.doctor.duplicates import copies
from foveal.doctor.findings import SEVERITIES, Findings
from foveal.doctor.leaks import of_copies, of_problems
from foveal.doctor.looks import Looks
from foveal.doctor.oddities import of_oddities, of_shapes, size_in_words
from foveal.doctor.pictures import Pictures, pictures_of
from foveal.names import printable


def check(data: ImageFiles | Dataset, *, quiet: bool = False) -> Findings:
    """Look at all images of a data set once, and return what is wrong with it or worth knowing.

        findings = foveal.doctor.check(foveal.data.scan("photos"))
        print(findings)
        findings.write_html("findings.html")

    data: the files that `data.scan` lists, or a Dataset. quiet: True to show no progress, which is a bar on standard
    error where the check takes more than a second.

    Found are files that cannot be read, are truncated, hostile or named wrongly; copies, exact and near, within a
    class, in two parts and in two classes; classes that are absent from a part, small, or much larger than others;
    blank and outlying images; mixed sizes, shapes and channels. Each finding says how many, which, and the way out.

    Each file is decoded once, a JPEG at a reduced scale, in threads; 768 bytes and a few numbers are kept of each.
    """
    started = time.perf_counter()
    pictures: Pictures = pictures_of(data)
    with Bar("looking at", len(pictures.labels), "images", quiet=quiet) as bar:
        looks = pictures.looks(bar.advance)
    counts = counts_of(pictures)
    # Copies, outliers and the rest are found among what could be decoded.
    found = [
        *of_problems(pictures.problems),
        *of_copies(pictures, copies(looks)),
        *of_classes(pictures, counts),
        *of_oddities(pictures, looks),
        *of_shapes(pictures, looks),
    ]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Findings(
        name=pictures.name,
        facts=facts_of(pictures, looks),
        findings=tuple(found),
        seconds=time.perf_counter() - started,
        pictures=pictures,
    )


def facts_of(pictures: Pictures, looks: Looks) -> dict[str, Any]:
    """Return what the data set is, ready for JSON.

    "images", those that can be decoded; "left_out"; "parts", images by part; "classes", images by class and part;
    "size", in words; "grey", images without colour; "means", of the measures of all images.
    """
    counts = counts_of(pictures)
    seen = looks.seen
    classes = {
        printable(name): {part: int(of_part[k]) for part, of_part in counts.items()}
        for k, name in enumerate(pictures.classes)
    }
    means = {
        name: float(getattr(looks, name)[seen].mean()) if seen.any() else 0.0 for name in ("brightness", "contrast")
    }
    return {
        "images": int(seen.sum()),
        "left_out": int((~seen).sum()),
        "parts": {part: int(of_part.sum()) for part, of_part in counts.items()},
        "classes": classes,
        "size": size_in_words(pictures.sizes[np.flatnonzero(seen)]),
        "grey": int((looks.grey & seen).sum()),
        "means": means,
    }
