"""The tables that `foveal evaluate` prints, from train.evaluate.classification_report."""

from collections.abc import Iterator, Sequence
from typing import Any

MOST_CONFUSED = 20  # classes up to which the confusion matrix is printed
LONGEST = 6  # characters of a class's name over a column of the matrix; beyond, classes are numbered
SCORES = ("precision", "recall", "f1")

Table = tuple[str, Sequence[str], list[tuple[str, ...]]]  # heading, columns, rows


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """All images; by class; which class was taken for which; confidence; the threshold, where one was picked."""
    yield overall(found)
    yield by_class(found)
    if len(found["classes"]) <= MOST_CONFUSED:
        yield confusion(found)
    yield reliability(found)
    if "threshold" in found:
        picked = {name: value for name, value in found["threshold"].items() if value is not None}
        lines: list[tuple[str, ...]] = [(n.replace("_", " "), shown(v)) for n, v in picked.items() if "curve" not in n]
        yield "", ("", ""), lines


def shown(value: Any) -> str:
    """A number to six digits, so that a threshold can be used."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def overall(found: dict[str, Any]) -> Table:
    tops = {f"top-{k}": f"{value:.2%}" for k, value in found["top_k"].items()}
    told = found["calibration"]
    columns = ("data", "images", "loss", "accuracy", *tops, "ECE", "Brier")
    row = (
        found["data"],
        f"{found['images']:,}",
        four(found["loss"]),
        f"{found['accuracy']:.2%}",
        *tops.values(),
        four(told["ece"]),
        four(told["brier"]),
    )
    return "", columns, [row]


def by_class(found: dict[str, Any]) -> Table:
    rows = [
        (entry["class"], f"{entry['images']:,}", *(four(entry[name]) for name in (*SCORES, "auc", "average_precision")))
        for entry in found["classes"]
    ]
    for name, entry in found["averages"].items():
        rows.append((f"({name})", "", *(four(entry[score]) for score in SCORES), "", ""))
    return "", ("class", "images", *SCORES, "AUC", "average precision"), rows


def reliability(found: dict[str, Any]) -> Table:
    """Bins of confidence that hold images."""
    rows: list[tuple[str, ...]] = [
        (f"{one['low']:.3f} - {one['high']:.3f}", f"{one['images']:,}", four(one["confidence"]), four(one["accuracy"]))
        for one in found["calibration"]["bins"]
        if one["images"]
    ]
    return ("How sure the network was, and how often it was right:", ("confidence", "images", "mean", "accuracy"), rows)


def confusion(found: dict[str, Any]) -> Table:
    names = [entry["class"] for entry in found["classes"]]
    numbered = any(len(name) > LONGEST for name in names)
    heads = [str(k) if numbered else name for k, name in enumerate(names)]
    rows = [
        (f"{k} {name}" if numbered else name, *(str(n) if n else "." for n in counts))
        for k, (name, counts) in enumerate(zip(names, found["confusion"], strict=True))
    ]
    return "Which class (row) was taken for which (column):", ("", *heads), rows
