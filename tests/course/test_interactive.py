"""Figures that a reader changes: what the page shows and computes, in a headless Chromium, against Foveal."""

import html
import itertools
import json
import re
import shutil
import subprocess
import warnings

import numpy as np
import pytest

from foveal import course, metrics, nn, ops, optim
from foveal.course.race import GROUNDS
from foveal.errors import ArgumentError, DataError, ShapeError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: chromium)")
X = np.random.default_rng(0).integers(-9, 10, (7, 7)).astype("float32")
W = np.array([[-1, 0, 2], [3, 1, -2], [0, 4, 1]], "float32")
NETS = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, dilation=2), nn.MaxPool2d(3, stride=2), nn.Conv2d(2, 2, 2))


def in_chromium(figure, script, tmp_path):
    """Open a figure's page, run a script there, and return what it puts into `result`; errors of the page fail."""
    path = figure.save(tmp_path / "page.html")
    ends = (
        "<script>window.onerror = (text) => { document.title = 'error: ' + text; };</script>",
        '<script>window.addEventListener("load", () => { let result; ' + script + " const out = "
        'document.createElement("pre"); out.id = "result"; out.textContent = JSON.stringify(result); '
        "document.body.append(out); });</script></body>",
    )
    text = path.read_text().replace("<body>", "<body>" + ends[0]).replace("</body>", ends[1])
    path.write_text(text)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    ended = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert "<title>error" not in ended.stdout
    (found,) = re.findall(r'<pre id="result">(.*?)</pre>', ended.stdout, re.DOTALL)
    return json.loads(html.unescape(found))


SETTINGS = [
    setting
    for setting in itertools.product((6,), (2, 3), (1, 2, 3), (0, 2), (1, 2), (False, True))
    if setting[4] * (setting[1] - 1) + 1 <= setting[0] + 2 * setting[3]
]

SLIDE = """
const [selects, flip] = [[...document.querySelectorAll("select")], document.querySelector("input[type=checkbox]")];
const slider = document.querySelector("input[type=range]");
const shown = (figure) => [...figure.querySelectorAll("g")];
const slid = SETTINGS.map((setting) => {
  selects.forEach((select, i) => { select.value = String(setting[i]); });
  flip.checked = setting[5];
  flip.dispatchEvent(new Event("change"));
  const grids = [...document.querySelectorAll("figure")];
  const sums = [], marks = [];
  for (let i = 0; i <= Number(slider.max); i++) {
    slider.value = i;
    slider.dispatchEvent(new Event("input"));
    sums.push(Number(document.querySelector(".foveal-figure").dataset.sum));
    marks.push(grids[0].querySelectorAll(".marked").length);
  }
  const outputs = grids[2].querySelector("svg").getAttribute("aria-label");
  const told = document.querySelector(".told").textContent;
  return { sums, marks, outputs, told, unread: grids[0].querySelectorAll(".unread").length };
});
"""


KEYS = """
const [figure] = document.querySelectorAll(".foveal-figure");
selects.forEach((select, i) => { select.value = String([6, 3, 1, 0, 1][i]); });
flip.dispatchEvent(new Event("change"));
const grid = document.querySelector("svg[tabindex]");
const press = (key) => grid.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
const told = document.querySelector("[aria-live]");
const steps = [];
for (const key of ["ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowUp"]) {
  press(key);
  steps.push(told.textContent.slice(0, 7));
}
const named = [...document.querySelectorAll("select, input, button")].map((e) => (e.labels && e.labels[0] ||
e).textContent.trim()); const svgs = [...document.querySelectorAll("svg")].map((e) => e.getAttribute("aria-label"));
result = { slid, steps, named, svgs, group: figure.getAttribute("aria-label") };
"""


@needs_chromium
def test_the_sliding_window_computes_what_foveal_does_and_is_used_with_the_keyboard(tmp_path):
    script = SLIDE.replace("SETTINGS", json.dumps(SETTINGS)) + KEYS
    found = in_chromium(course.sliding_window(X, W), script, tmp_path)
    # Arrow keys move over the outputs and stop at the border; everything that is used or seen has a name.
    moves = ["y[0, 1]", "y[1, 1]", "y[2, 1]", "y[2, 0]", "y[1, 0]", "y[0, 0]", "y[0, 0]"]
    assert found["steps"] == moves
    assert all(found["named"])
    assert all(found["svgs"])
    assert found["group"] == "A filter slides over an image"
    pages = found["slid"]
    assert len(pages) == len(SETTINGS) == 48
    for (H, R, u, a, d, flip), page in zip(SETTINGS, pages, strict=True):
        operator = ops.convolve2d if flip else ops.conv2d
        x, w = X[None, None, :H, :H], W[None, None, :R, :R]
        y = np.asarray(operator(x, w, stride=u, padding=a, dilation=d))[0, 0]
        np.testing.assert_allclose(np.reshape(page["sums"], y.shape), y)
        assert f"output y, {len(y)}\N{MULTIPLICATION SIGN}{len(y)}" in page["outputs"]
        assert "but Foveal computed" not in page["told"]
        # Each output reads R x R cells of the padded image.
        assert set(page["marks"]) == {R * R}
        dx = ops.conv2d_input_grad(
            np.ones_like(y)[None, None], np.ones_like(w), image_size=(H, H), stride=u, padding=a, dilation=d
        )
        assert page["unread"] == (np.asarray(dx) == 0).sum()


FIELDS = """
const select = document.querySelector("select");
result = [...select.options].map((_, index) => {
  select.selectedIndex = index;
  select.dispatchEvent(new Event("change"));
  const [pixels, outputs] = [...document.querySelectorAll("figure")];
  const cells = [...outputs.querySelectorAll("g")];
  const all = [...pixels.querySelectorAll("g")];
  return cells.map((cell) => {
    cell.dispatchEvent(new PointerEvent("pointerenter"));
    const at = (g) => g.getAttribute("transform").match(/[\\d.]+/g).map((v) => Number(v) - 1);
    const width = Number(pixels.querySelector("rect").getAttribute("width"));
    const own = Number(outputs.querySelector("rect").getAttribute("width"));
    const places = (list, size) => list.map((g) => at(g).reverse().map((v) => v / size));
    const marked = [...pixels.querySelectorAll(".marked")];
    return { at: places([cell], own)[0], read: places(marked, width), all: all.length };
  });
});
"""


@needs_chromium
def test_the_fields_of_a_page_are_those_of_foveal(tmp_path):
    image = np.random.default_rng(0).random((1, 12, 10)).astype("float32")
    layers = in_chromium(course.receptive_fields(NETS, image), FIELDS, tmp_path)
    rows = [row for row in NETS.summary((1, 12, 10)).rows if not row.holds]
    assert len(layers) == len(rows) == 3
    for row, outputs in zip(rows, layers, strict=True):
        assert len(outputs) == row.shape[2] * row.shape[3]
        for output in outputs:
            p, q = map(int, output["at"])
            want = set(itertools.product(row.field[0].reads(p), row.field[1].reads(q)))
            assert {(round(r), round(c)) for r, c in output["read"]} == want
            assert output["all"] == 120


MOVE = """
const slider = document.querySelector("input[type=range]");
const [figure] = document.querySelectorAll(".foveal-figure");
const [first, second] = [...document.querySelectorAll("circle")];
const at = (point) => [(point.getAttribute("cx") - 48) / 190, 1 - (point.getAttribute("cy") - 6) / 190];
const seen = [...Array(Number(slider.max) + 1).keys()].map((i) => {
  slider.value = i;
  slider.dispatchEvent(new Event("input"));
  const told = document.querySelector("[aria-live]").textContent;
  return { counts: figure.dataset.counts.split(",").map(Number), roc: at(first), curve: at(second), told,
    cells: [...document.querySelectorAll("g text")].map((e) => e.textContent),
    said: slider.getAttribute("aria-valuetext") };
});
const svgs = [...document.querySelectorAll("svg")].map((e) => e.getAttribute("aria-label"));
result = { seen, svgs, label: slider.labels[0].textContent.trim(), type: slider.type };
"""


@needs_chromium
def test_the_threshold_counts_what_foveal_does(tmp_path):
    rng = np.random.default_rng(3)
    positive = np.arange(24) % 3 == 0
    # Some scores are equal, and many have more digits than a page holds.
    scores = (rng.standard_normal(24) + positive).round(1) / 3
    found = in_chromium(course.threshold(positive, scores, "eights"), MOVE, tmp_path)
    # A native slider that has a name is moved with the keyboard; it says what it means, and each picture has a name.
    assert (found["type"], found["label"]) == ("range", "threshold")
    assert all(found["svgs"])
    assert f"ROC, area {metrics.roc_auc(positive, scores):.3g}" in found["svgs"]
    thresholds = np.unique(scores)
    # One more at the right end, which no image reaches.
    assert len(found["seen"]) == len(thresholds) + 1
    roc, curve = metrics.roc_curve(positive, scores), metrics.precision_recall_curve(positive, scores)
    for i, page in enumerate(found["seen"]):
        reached = scores >= thresholds[i] if i < len(thresholds) else np.zeros(24, bool)
        confusion = metrics.confusion_matrix(positive.astype(int), reached.astype(int), 2)
        (tn, fp), (fn, tp) = confusion.tolist()
        assert page["counts"] == [tp, fp, fn, tn]
        assert page["cells"] == [f"TP {tp}", f"FN {fn}", f"FP {fp}", f"TN {tn}"]
        np.testing.assert_allclose(page["roc"], [roc.x[-1 - i], roc.y[-1 - i]], atol=1e-5)
        np.testing.assert_allclose(page["curve"], [curve.x[i], curve.y[i]], atol=1e-5)
        assert "but Foveal counted" not in page["told"]
        precision = f"{tp / (tp + fp):.3f}" if tp + fp else "0 / 0, nothing is found"
        assert page["said"].endswith(f"recall {roc.y[-1 - i]:.3f}, precision {precision}")
        assert tp + fp or f"precision = {precision};" in page["told"]


RACE = """
const [ground, rate, momentum] = document.querySelectorAll("select");
const [x, y] = document.querySelectorAll("input[type=number]");
const slider = document.querySelector("input[type=range]");
const [reset] = [...document.querySelectorAll("button")].filter((button) => button.textContent === "Reset");
const [figure] = document.querySelectorAll(".foveal-figure");
const told = () => document.querySelector("[aria-live]").textContent;
const change = (control, value, kind = "change") => {
  control.value = value;
  control.dispatchEvent(new Event(kind));
};
const steps = (count) => [...Array(count + 1).keys()].map((t) => {
  change(slider, t, "input");
  return JSON.parse(figure.dataset.at);
});
const raced = SETTINGS.map(([name, start, lr, mu]) => {
  change(ground, name);
  const own = told();
  const runs = [[x, start[0]], [y, start[1]], [rate, lr], [momentum, mu]];
  runs.forEach(([control, value]) => change(control, value));
  return { own, paths: steps(Number(slider.max)), told: told() };
});
change(ground, "a saddle");
const picture = document.querySelector("svg[tabindex]");
const places = [];
const note = () => places.push([Number(x.value), Number(y.value)]);
for (const key of ["ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowDown"]) {
  picture.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  note();
}
const box = picture.querySelector("rect").getBoundingClientRect();
const pointer = { clientX: box.left + box.width / 4, clientY: box.top + box.height / 4 };
picture.dispatchEvent(new MouseEvent("click", pointer));
note();
reset.click();
note();
const [first] = document.querySelectorAll("input[type=checkbox]");
first.click();
const named = [...document.querySelectorAll("select, input, button")].map((e) => (e.labels && e.labels[0] ||
e).textContent.trim());
result = { raced, places, told: told(), shown: document.querySelectorAll("polyline").length, named };
"""


@needs_chromium
def test_the_race_walks_as_foveals_optimisers_do_from_any_start(tmp_path):
    settings = [
        ("a ravine", (0.75, -1.25), 0.03, 0.5),
        ("a saddle", (-0.5, -0.125), 0.1, 0.8),
        ("a local minimum", (1.5, 1.0), 0.01, 0.9),
        # SGD and momentum run away, until Foveal's steps end.
        ("a local minimum", (2.0, 1.0), 0.3, 0.0),
    ]
    figure = course.race(steps=30)
    found = in_chromium(figure, RACE.replace("SETTINGS", json.dumps(settings)), tmp_path)
    assert all(found["named"])
    for (name, start, lr, mu), page in zip(settings, found["raced"], strict=True):
        # The first paths are Foveal's, which the page finds to be its own.
        assert page["own"].endswith("These are Foveal's paths.")
        assert "Foveal's paths" not in page["told"]
        how = [("sgd", {}), *((rule, {"momentum": mu}) for rule in ("momentum", "nesterov"))]
        how += [("adam", {"betas": (mu, 0.999), "bias_correction": corrected}) for corrected in (True, False)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(SGD|Momentum|Nesterov), .* left all numbers")
            walked = optim.trajectory(
                [(rule, {"lr": lr, **options}) for rule, options in how], GROUNDS[name].surface, start=start, steps=30
            )
        for k, path in enumerate(walked.values()):
            own = [places[k] for places in page["paths"] if places[k]]
            assert len(own) == len(path)
            np.testing.assert_allclose(own, path, rtol=1e-3, atol=1e-4)
            assert ("has left all numbers" in page["told"]) == any(len(path) < 31 for path in walked.values())
    # A key moves the start by a fortieth of the picture, a click to where it is; the border stops it.
    keys = [(1.07, 0.001), (1.07, 0.081), (1.07, 0.161), (1.0, 0.161), (0.93, 0.161), (0.93, 0.081)]
    np.testing.assert_allclose(found["places"], [*keys, (-0.7, 0.8), (1.0, 0.001)], atol=0.01)
    # Who is not chosen is neither drawn nor told.
    assert found["shown"] == 4
    assert found["told"].startswith("From (1, 0.001), after 20 steps: momentum (")


def test_other_races_are_refused():
    flat = {"xlim": (-1.0, 1.0), "ylim": (-1.0, 1.0), "start": (0.0, 0.0)}
    with pytest.raises(ArgumentError, match="the surface waves is no polynomial up to power 6"):
        course.race({"waves": course.Ground(lambda x, y: np.sin(9 * x), **flat)})
    with pytest.raises(ShapeError, match=r"a bowl starts at y = 3.0, and shows -1.0 to 1.0; start inside"):
        course.race({"a bowl": course.Ground(optim.surfaces.bowl, **flat | {"start": (0.0, 3.0)})})
    with pytest.raises(ShapeError, match=r"lr of a bowl is 0.4; choose one of 0.001, "):
        course.race({"a bowl": course.Ground(optim.surfaces.bowl, **flat, lr=0.4)})
    with pytest.raises(ShapeError, match="steps is 401, it has to be from 1 to 400"):
        course.race(steps=401)
    with pytest.raises(ArgumentError, match="there is no surface"):
        course.race({})


def test_a_figure_is_html_that_needs_nothing_else():
    page = course.sliding_window(X, W)._repr_html_()
    assert not re.search(r"https?://(?!www\.w3\.org/)|@import|url\(", page)
    # Numbers cannot end the script that they stand in.
    assert (
        "</script>" not in course.Interactive("window", "label", {"x": "</script>"})._repr_html_().split("</script>")[0]
    )
    assert "&lt;b&gt;" in course.Interactive("window", "<b>", {})._repr_html_()


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"sliding_window: x has shape \(3, 4\); give a square array, 3 to 9 wide"):
        course.sliding_window(np.zeros((3, 4)), W)
    with pytest.raises(ShapeError, match=r"sliding_window: w has shape \(6, 6\); give a square array, 1 to 5 wide"):
        course.sliding_window(X, np.zeros((6, 6)))
    with pytest.raises(ShapeError, match=r"receptive_fields: the image has shape \(1, 99, 99\)"):
        course.receptive_fields(NETS, np.zeros((1, 99, 99)))
    with pytest.raises(ShapeError, match="no layer of Sequential has outputs with rows and columns"):
        course.receptive_fields(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), np.zeros((1, 8, 8)))
    with pytest.raises(DataError, match="threshold: 2001 scores; give 2000 at most"):
        course.threshold(np.arange(2001) < 9, np.zeros(2001))
