"""Grading: right solutions have all points, wrong ones are told why, and what one submission does disturbs no other."""

import collections
import importlib
import json
import os
import re
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import foveal
from foveal import course, nn, optim
from foveal.course.assignment import optimisers
from foveal.course.grading.compare import difference
from foveal.course.grading.session import Ended, result_of
from foveal.course.grading.tasks import tasks
from foveal.course.grading.worker import Broken, answered, packed, unpacked
from foveal.course.handout import MODULES, skeleton, solution, source
from foveal.errors import ArgumentError, DataError

RIGHT = "return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1"


def sizes(folder, body):
    """Write a submission of one exercise, with this body."""
    head = "import ctypes, os, pathlib, signal, sys, threading, time\nimport numpy as np\n\n"
    head += "def leave():\n    open('once', 'w').close()\n    if os.fork(): return\n"
    head += "    os.setsid(); os.close(1); os.close(2)\n"
    head += "    if os.fork() == 0: time.sleep(60)\n    os._exit(0)\n\n"
    head += "def output_size(length, kernel, stride, padding, dilation):\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sizes.py").write_text(head + textwrap.indent(body, "    ") + "\n")
    return folder


class Here:
    """A session without a process: functions of modules, or of texts of modules, that are called in this one."""

    def __init__(self, **texts):
        self.held = {module: {} for module in texts}
        for module, text in texts.items():
            exec(text, self.held[module])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def end(self):
        return Ended("", "")

    def timed(self, module, function, arguments):
        own = self.held.get(module)
        held = vars(importlib.import_module(f"foveal.course.assignment.{module}")) if own is None else own
        start = time.perf_counter()
        given = unpacked(packed(list(arguments))[8:])
        with np.errstate(all="ignore"):
            answer = unpacked(packed(answered(held[function], given))[8:])
        return result_of(answer, module, function, {}), time.perf_counter() - start

    def call(self, *given):
        return self.timed(*given)[0]


TASKS = {task.name: task for task in tasks(77)}


@pytest.mark.parametrize("name", TASKS)
def test_the_solutions_have_all_points(name):
    verdicts = TASKS[name].grade(Here())
    assert [(one.title, one.text) for one in verdicts if one.text] == []
    assert sum(one.points for one in verdicts) == TASKS[name].most()


def test_the_points_are_those_of_the_sheet():
    worth = collections.Counter()
    for task in TASKS.values():
        worth[task.module] += task.most()
    rows = re.findall(r"^\| `(\w+)\.py` \|.*\| (\d+) \|$", source("README.md"), re.MULTILINE)
    assert [(module, int(points)) for module, points in rows] == [(module, worth[module]) for module in MODULES]


def test_what_is_handed_out_has_no_solution_and_every_function(tmp_path):
    for module in MODULES:
        blank, full = skeleton(module), solution(module)
        assert "foveal" not in blank + full.replace("does not", "")
        functions = [line for line in full.splitlines() if line.startswith("def ") and not line.startswith("def _")]
        assert [line for line in blank.splitlines() if line.startswith("def ")] == functions
        assert blank.count("raise NotImplementedError") == len(functions)
        assert blank.count("\n    return ") == 0
    files = course.new_assignment(tmp_path / "new")
    assert not (tmp_path / "new" / "solutions").exists()
    with np.load(tmp_path / "new" / "data" / "digits.npz") as held:
        assert {name: len(held[name]) for name in held} == {
            "x_train": 1237,
            "y_train": 1237,
            "x_val": 200,
            "y_val": 200,
        }
        known = {image.tobytes() for name in ("x_train", "x_val") for image in held[name].astype(np.float64)}
    # None of the images that a network is tested on can be looked up.
    part = TASKS["network"].parts[0]
    x, _ = part.data()
    assert [image.tobytes() in known for image in x] == [True] * part.train + [False] * 360
    assert len(files) == len(MODULES) + 2
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(DataError, match="not an empty folder, and nothing in it is written over"):
        course.new_assignment(tmp_path / "new")
    assert {path: path.read_bytes() for path in files} == before


# What a submission does, with what the report says of it.
HOSTILE = {
    "exits": ("os._exit(0)", "It ended Python (exit status 0)"),
    "segfault": ("ctypes.string_at(0)", "It crashed Python itself (SIGSEGV)."),
    # Each doubles them, and is no part of the others' group; as many as a machine bears where nothing stops them.
    "fork-bomb": (
        "for _ in range(6):\n    if os.fork() == 0: os.setsid()\ntime.sleep(60)",
        "It started more than 2 processes",
    ),
    "daemon": (f"if not os.path.exists('once'): leave()\n{RIGHT}", "It left a process running"),
    "memory": ("kept = []\nwhile True: kept.append(bytearray(10**7))", "It raises MemoryError: no memory is left (500"),
    "memory-of-children": (
        "if os.fork() == 0 or os.fork() == 0: kept = b'1' * (2 * 10**8); time.sleep(60)\n"
        "kept = b'1' * (2 * 10**8); time.sleep(60)",
        "It used more than 500 MB of memory",
    ),
    "large-file": (
        "open('large', 'wb').write(bytes(3 * 10**6))",
        "It raises OSError: [Errno 27] File too large (a file",
    ),
    "patched-numpy": ("np.allclose = np.all = lambda *_: True\nnp.abs = lambda x: 0\nreturn 0", "output_size is 0;"),
    "kills-the-watch": ("os.kill(os.getppid(), 9)\ntime.sleep(60)", "It ended the process that watches it."),
    "leaves-what-holds-the-pipes": (
        "watch = os.getppid()\nif os.fork() == 0: os.setsid(); os.kill(watch, 9)\ntime.sleep(60)",
        "It ended the process that watches it.",
    ),
    "imports": (
        "import foveal.ops\n" + RIGHT,
        "It raises ModuleNotFoundError: foveal may not be imported: files of this folder, NumPy",
    ),
    "imports-by-text": (
        "exec('import foveal.ops')\n" + RIGHT,
        "It raises ModuleNotFoundError: foveal may not be imported",
    ),
    "imports-by-name": (
        "import pkgutil\npkgutil.resolve_name('foveal.ops')\n" + RIGHT,
        "It raises ModuleNotFoundError: foveal may not be imported",
    ),
    "forged": (
        "for fd in range(3, 500):\n    try: os.write(fd, b'x' * 40)\n    except OSError: pass\n" + RIGHT,
        "It has sent something that is no result.",
    ),
    "forged-error": (
        "packed = sys.modules['__main__'].packed\n"
        "os.write(int(sys.argv[3]), packed({'raised': 1, 'text': None, 'where': 5}))\nos._exit(0)",
        "It ended Python (exit status 0)",
    ),
    "deletes": (
        "for path in pathlib.Path.cwd().rglob('*'): path.unlink()\nos.chmod('.', 0)\n" + RIGHT.replace("+ 1", "+ 2"),
        "output_size is ",
    ),
}
# These are ended by the clock.
ENDLESS = {"prints": "while True: print('x' * 1000)", "stops": "os.kill(os.getpid(), 19)"}


def test_what_a_submission_does_costs_that_submission_alone(tmp_path, monkeypatch):
    """Each is graded as failed with its reason, and a right one between them has its points."""
    # Copies lie where no other test's do.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handed = tmp_path / "handed-in"
    for number, (name, (body, _)) in enumerate(HOSTILE.items()):
        sizes(handed / name, body)
        if number % 6 == 5:
            sizes(handed / f"{name}-then-right", RIGHT)
    before = {path: path.read_bytes() for path in handed.rglob("*.py")}
    limits = {"seconds": 60, "memory": 500, "processes": 2, "file_size": 1}
    grades = course.grade(handed, tmp_path / "grades", exercises=["sizes"], **limits)
    found = {one.submission: one for one in grades.grades}
    right = {name: found.pop(name) for name in list(found) if name.endswith("then-right")}
    assert {(one.points, one.results[0].reason) for one in right.values()} == {(5, "")}
    assert {name: one.points for name, one in found.items() if one.points} == {}
    reasons = {name: one.results[0].reason for name, one in found.items()}
    assert {name: reasons[name] for name, (_, text) in HOSTILE.items() if not reasons[name].startswith(text)} == {}
    assert {path: path.read_bytes() for path in handed.rglob("*.py")} == before
    assert list(tmp_path.glob("foveal-course-*")) == []
    place = bytes(tmp_path / "foveal-course-")
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if place in of(path)] == []


def of(path):
    """The content of a file, if it is still there."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_what_never_ends_is_ended(tmp_path):
    for name, body in ENDLESS.items():
        sizes(tmp_path / "in" / name, body)
    grades = course.grade(tmp_path / "in", tmp_path / "grades", exercises=["sizes"], seconds=0.6, jobs=2)
    texts = {one.results[0].reason for one in grades.grades}
    assert texts == {"It did not end within 0.6 s, and was stopped."}
    assert [one.submission for one in grades.grades] == sorted(ENDLESS)
    assert max(len(one.results[0].printed) for one in grades.grades) < 5000


def test_an_interrupt_ends_what_runs_beside(tmp_path):
    sizes(tmp_path / "in" / "a", RIGHT)
    sizes(tmp_path / "in" / "b", "while True: pass")

    def interrupted(_):
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        course.grade(tmp_path / "in", tmp_path / "out", exercises=["sizes"], seconds=300, jobs=2, each=interrupted)
    assert time.monotonic() - start < 100
    assert not (tmp_path / "out" / "b").exists()


WRONG = [
    # module, what is replaced, exercise, points that are left, what is said of it
    (
        "convolution",
        ("padded = _padded(x, padding)\n    (N", "padded = x\n    (N"),
        "convolution",
        4,
        "y has the shape",
    ),
    ("convolution", ("+ b[k]", "- b[k]"), "convolution", 1, "y differs in"),
    ("convolution", ("return dx[", "return -dx["), "convolution-gradients", 5.5, "The sign is wrong."),
    ("pooling", ("+= dy[n, c, p, q]", "= dy[n, c, p, q]"), "max-pool", 7, "dx differs in"),
    ("pooling", ("/ size**2", "/ size"), "avg-pool", 5, "times what is right"),
    ("layers", ("dy * (x > 0)", "dy * (x >= 0)"), "relu", 3, "dx differs in"),
    ("batch_norm", (" * m / (m - 1)", ""), "batch-norm", 14, "running_var"),
    ("batch_norm", ("np.sqrt(var + eps)\n", "(np.sqrt(var) + eps)\n"), "batch-norm", 9, "y differs in"),
    ("losses", ("logits - logits.max(1, keepdims=True)", "logits * 1"), "cross-entropy", 8, "NaN"),
    ("losses", ("* (K / weight.sum())", "* 1"), "focal-loss", 5, "loss is"),
    ("optimisers", ("m / (1 - beta1**t)", "m"), "optimisers", 7, "p "),
]


def test_common_mistakes_are_found_and_cost_their_part():
    for module, (old, new), exercise, points, text in WRONG:
        full = source(f"{module}.py")
        assert old in full
        verdicts = TASKS[exercise].grade(Here(**{module: full.replace(old, new)}))
        assert (exercise, sum(one.points for one in verdicts)) == (exercise, points)
        assert any(text in one.text for one in verdicts), [one.text for one in verdicts]


def test_a_function_that_writes_into_what_it_gets_loses_its_points(tmp_path):
    layers = source("layers.py").replace("np.maximum(x, 0.0)", "np.maximum(x, 0.0, out=x)")
    assert layers != source("layers.py")
    found = TASKS["relu"].grade(Here(layers=layers))
    lost = [one for one in found if not one.points]
    assert {one.title.partition(",")[0].partition(":")[0] for one in lost} == {"forward"}
    assert all(one.text.startswith("relu_forward writes into the arrays that it gets: x.") for one in lost)
    folder = tmp_path / "handed-in"
    folder.mkdir()
    (folder / "layers.py").write_text(layers)
    (one,) = course.grade(folder, tmp_path / "grades", exercises=["relu"]).grades
    assert 0 < one.points < TASKS["relu"].most()


def test_the_gradients_of_a_report_are_called_as_the_arguments_are():
    old, new = WRONG[2][1]
    full = source("convolution.py").replace(old, new)
    verdicts = TASKS["convolution-gradients"].grade(Here(convolution=full))
    assert re.findall(r"^(\w+) .*(?:WRONG|agrees)$", verdicts[-1].text, re.MULTILINE) == ["x", "w", "b"]


def test_what_earns_points_stands_where_students_read_it():
    network = skeleton("network").replace("\n    ", " ")
    for least, points in TASKS["network"].parts[0].steps:
        assert re.search(rf"{points:g} (more )?(points )?for {least:.0%}".replace("%", " %"), network)
    for times, points in TASKS["im2col"].parts[1].steps:
        assert re.search(rf"{points:g} (points|more) for {times:g} times", skeleton("fast").replace("\n    ", " "))


def test_the_weak_lose_the_points_of_accuracy():
    text = "def train_and_predict(x_train, y_train, x_test, seed):\n    return [3] * len(x_test)\n"
    (first, *others) = TASKS["network"].grade(Here(network=text))
    assert (first.points, "test images" in first.text, len(others)) == (0, True, 2)


def test_what_returns_zeros_has_the_points_of_shapes_alone():
    text = "import numpy as np\n\n\ndef conv_forward(x, w, b, stride, padding):\n    return np.zeros((1, 2, 2, 3))\n"
    text += "\n\ndef conv_backward(dy, x, w, stride, padding):\n    return 0 * x, 0 * w, np.zeros(len(w))\n"
    found = TASKS["convolution-gradients"].grade(Here(convolution=text))
    assert {one.title: one.points for one in found if one.points} == {"stride and padding: shapes": 1}
    assert found[-1].text == "Your forward function returns the same for other arrays."


def test_the_slow_lose_the_points_of_speed():
    # Several times as slow as the loops, so that it stays so on a machine that is busy.
    loops = "from foveal.course.assignment.convolution import conv_forward\n\n\ndef conv_im2col(*given):\n"
    verdicts = TASKS["im2col"].grade(Here(fast=f"{loops}    return [conv_forward(*given) for _ in range(3)][0]\n"))
    assert [one.points for one in verdicts] == [1, 3, 0, 0]
    assert "times as fast as the four loops" in verdicts[-1].text


def test_results_that_are_remembered_are_not_fast():
    text = "from foveal.course.assignment.convolution import conv_forward\n\nkept = {}\n\n\ndef conv_im2col(*given):\n"
    text += "    key = str([getattr(one, 'tobytes', lambda: one)() for one in given])\n    if key not in kept:\n"
    text += "        kept[key] = [conv_forward(*given) for _ in range(3)][0]\n    return kept[key]\n"
    assert [one.points for one in TASKS["im2col"].grade(Here(fast=text))] == [1, 3, 0, 0]


def test_the_call_in_a_report_can_be_run():
    verdicts = TASKS["convolution"].grade(Here(convolution=source("convolution.py").replace("+ b[k]", "")))
    verdict = next(one for one in verdicts if one.code)
    held, shown = {}, {}
    exec(verdict.code.replace("from convolution", "from foveal.course.assignment.convolution"), held)
    right = held["conv_forward"](*(held[name] for name in ("x", "w", "b", "stride", "padding")))
    exec(f"import numpy as np\ny = {dict(verdict.right)['y']}", shown)
    np.testing.assert_allclose(shown["y"], right, atol=1e-6)


def test_what_is_graded_is_kept_until_files_or_settings_change(tmp_path):
    for name in ("ada", "bob"):
        sizes(tmp_path / "in" / name, RIGHT)
    # An archive that was unpacked into a folder of its own, somebody who handed in nothing, and what is no submission.
    sizes(tmp_path / "in" / "cy" / "assignment", RIGHT)
    for name in ("dan", ".hidden"):
        (tmp_path / "in" / name).mkdir()
    out, kept = tmp_path / "grades", {}

    def graded():
        found = course.grade(tmp_path / "in", out, exercises=["sizes"], seconds=60)
        kept.clear()
        kept.update({one.submission: one.kept for one in found.grades})
        return {one.submission: one.points for one in found.grades}

    assert graded() == {"ada": 5, "bob": 5, "cy": 5, "dan": 0}
    assert not any(kept.values())
    sizes(tmp_path / "in" / "bob", "return 7")
    # What a kill leaves of a submission that was being graded.
    (out / "cy" / "grade.json").write_text("{")
    assert graded()["bob"] < 2
    assert kept == {"ada": True, "bob": False, "cy": False, "dan": False}
    lines = (out / "grades.csv").read_text().splitlines()
    assert lines[0] == "submission,exercise,points,of,passed,reason"
    assert lines[4] == "dan,sizes,0,5,0,No file of the assignment was found."
    # With another seed it is another grade.
    assert not course.grade(tmp_path / "in" / "ada", out, exercises=["sizes"], seconds=60, seed=1).grades[0].kept


def test_nothing_of_a_student_is_written_over(tmp_path):
    folder = sizes(tmp_path / "in", RIGHT)
    with pytest.raises(DataError, match="holds no grades, and nothing is written over"):
        course.grade(folder, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["sizes.py"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="holds no grades"):
        course.grade(folder, tmp_path / "file")


def test_what_cannot_be_graded_is_an_error(tmp_path):
    folder = sizes(tmp_path / "a" / "same", RIGHT)
    sizes(tmp_path / "b" / "Same", RIGHT)
    (tmp_path / "empty").mkdir()
    for given, text in (
        ([folder, tmp_path / "b"], "two submissions are called Same"),
        (tmp_path / "none", "is no folder"),
        (tmp_path / "empty", "holds no exercise"),
        ([], "no submission is given"),
        (sizes(tmp_path / "c" / "Grades.csv", RIGHT), "is called Grades.csv, as the table"),
    ):
        with pytest.raises(DataError, match=text):
            course.grade(given, tmp_path / "out")
    with pytest.raises(ArgumentError, match="there is no exercise 'conv'; there are sizes, convolution"):
        course.grade(folder, tmp_path / "out", exercises=["conv"])
    with pytest.raises(ArgumentError, match="seconds is 0"):
        course.grade(folder, tmp_path / "out", seconds=0)
    assert not (tmp_path / "out").exists()


def test_links_and_what_is_too_large_are_no_part_of_a_submission(tmp_path):
    folder = sizes(tmp_path / "in" / "large", RIGHT)
    with (folder / "large.bin").open("wb") as file:
        file.truncate(10**8)
    linked = sizes(tmp_path / "in" / "=linked", "return int(open('secret').read())")
    (tmp_path / "secret").write_text("1")
    os.symlink(tmp_path / "secret", linked / "secret")
    grades = course.grade(tmp_path / "in", tmp_path / "out", exercises=["sizes"], seconds=60)
    reasons = {one.submission: one.results[0].reason for one in grades.grades}
    assert reasons["large"] == "It cannot be read: It has more than 500 files, or than 32 MB."
    assert reasons["=linked"].startswith("It raises FileNotFoundError")
    # A name that a spreadsheet would compute.
    assert "\n'=linked,sizes" in f"\n{(tmp_path / 'out' / 'grades.csv').read_text()}"


def test_reports_show_what_students_write_as_text(tmp_path):
    folder = sizes(
        tmp_path / "in", "print('```<script>alert(1)</script>\\x1b[31m')\nraise ValueError('<b>|``` \\x1b[0m')"
    )
    course.grade(folder, tmp_path / "out", exercises=["sizes"], seconds=60)
    page = (tmp_path / "out" / "in" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    text = (tmp_path / "out" / "in" / "sizes.md").read_text()
    assert "\n````\n```<script>" in text
    assert "\x1b" not in page + text
    assert re.search(r"^sizes.py, line \d+: raise ValueError", text, re.MULTILINE)


def test_results_come_back_as_they_were_sent():
    values = (1, 2.5, float("nan"), None, "text", True, np.arange(6.0).reshape(2, 3), np.float32(2), [np.zeros((0, 2))])
    got = unpacked(packed(values)[8:])
    assert repr(got[:6]) == repr(values[:6])
    np.testing.assert_array_equal(got[6], values[6])
    assert got[8][0].shape == (0, 2)
    assert repr(unpacked(packed({"a": object()})[8:])) == "{'a': a value of the type object}"
    # One that would compare as equal to anything.
    equal = type("Equal", (int,), {"__eq__": lambda *_: True, "__hash__": None})
    assert repr(unpacked(packed(equal(5))[8:])) == "a value of the type Equal"
    for body in (b"", b"\0" * 20, packed(np.zeros(4))[8:-1], packed(1)[8:] + b"x"):
        with pytest.raises(Broken):
            unpacked(body)
    deep = json.loads("[" * 50 + "]" * 50)
    for claim in ({"array": ["<f8", [1 << 40]]}, {"float": "0x1p+99999"}, {"float": 1}, 10**400, 1e300, deep):
        text = json.dumps(claim).encode()
        with pytest.raises(Broken):
            unpacked(len(text).to_bytes(8, "big") + text)


def test_a_difference_says_where_and_how():
    right = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert difference("y", right * (1 + 1e-7), right).text == ""
    assert difference("y", right + [[0, 1], [0, 0]], right).text == (
        "y differs in 1 of 4 elements; the first is y[0, 1]: it is 3, 2 is right."
    )
    assert "All of it is 0.5 times" in difference("y", right / 2, right).text
    assert "All of it is zero" in difference("y", right * 0, right).text
    assert difference("y", right[0], right) == ("y has the shape (2,); (2, 2) is right.", True)
    assert difference("y", None, 3).text == "y is None; a number is right."
    assert difference("y", "text", 3).text == "y is str (text); a number is right."


@pytest.mark.parametrize("name", ["Momentum", "Adam"])
def test_the_steps_of_optimisers_are_those_of_foveal(name):
    """The solutions are what is right of these, so they are compared with what trains."""
    nn.seed(0)
    net, loss = nn.Sequential(nn.Linear(3, 2, bias=False)), nn.CrossEntropyLoss()
    x, labels = np.random.default_rng(0).standard_normal((4, 3)).astype("float32"), np.array([0, 1, 1, 0])
    (parameter,) = net.parameters()
    step = foveal.compile_step(net, loss, getattr(optim, name)(net.parameters(), lr=0.1))
    p, m, v = parameter.data.astype(float), np.zeros((2, 3)), np.zeros((2, 3))
    for t in (1, 2, 3):
        # The gradient of the loss in the weights of a fully connected layer.
        probabilities = np.exp(x @ p.T) / np.exp(x @ p.T).sum(1, keepdims=True)
        g = (probabilities - np.eye(2)[labels]).T @ x / 4
        if name == "Momentum":
            p, v = optimisers.momentum_step(p, g, v, 0.1, 0.9)
        else:
            p, m, v = optimisers.adam_step(p, g, m, v, t, 0.1, 0.9, 0.999, 1e-8)
        step(x, labels)
        np.testing.assert_allclose(parameter.data, p, rtol=1e-4, atol=1e-6)
