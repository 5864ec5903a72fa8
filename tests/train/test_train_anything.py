"""train.train on anything: arrays, sequences, loaders, generators; own losses and measures, histories, callbacks."""

import csv
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import foveal
from foveal import nn, ops, optim, train
from foveal.data import Loader, from_arrays
from foveal.errors import ArgumentError, CallbackError, DataError, FovealError, ShapeError, StateError
from foveal.metrics import accuracy, cross_entropy

RNG = np.random.default_rng(2)
Y = np.arange(48) % 3
X = RNG.standard_normal((48, 1, 8, 8)).astype("float32")
X[np.arange(48), 0, 1 + 2 * Y] += 3
PAIRS = list(zip(X, Y.tolist(), strict=True))
OPTIONS = {"epochs": 2, "batch_size": 12, "lr": 0.01, "threads": 1, "quiet": True}


def network(outputs=3, dropout=0.0):
    nn.seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(36, outputs))


@pytest.fixture(scope="module")
def dataset():
    return from_arrays("rows", X, Y, X[:24], Y[:24])


def weights(net):
    return {name: np.array(value) for name, value in net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


SOURCES = {
    "arrays": lambda: (X, Y),
    "pairs": lambda: PAIRS,
    "a loader": lambda: Loader(X, Y, 12, shuffle=True, drop_last=True),
    "a generator": lambda: lambda: iter(PAIRS),
}


@pytest.mark.parametrize("name", SOURCES)
def test_any_data_and_a_network(name):
    options = dict(OPTIONS)
    if name == "a loader":
        del options["batch_size"]
    history = train.train(SOURCES[name](), network(), validation=(X[:24], Y[:24]), **{**options, "epochs": 4})
    assert history.validation["loss"][-1] < history.validation["loss"][0]
    assert history["validation"]["accuracy"] > 0.6
    assert (history["batch_size"], history["optimizer"], history["train_images"]) == (
        12,
        "adamw",
        None if name == "a generator" else 48,
    )
    json.dumps(history)


def test_arrays_and_pairs_give_the_same_bits():
    nets = [network() for _ in range(2)]
    for net, data in zip(nets, [(X, Y), PAIRS], strict=True):
        train.train(data, net, **OPTIONS)
    assert same(*map(weights, nets))


def test_a_history_has_lists_by_epoch_and_the_numbers_at_the_end(dataset):
    history = train.train(dataset, network(), **OPTIONS)
    assert list(history.curves) == ["train", "test", "lr", "seconds", "images_per_second"]
    assert [len(values) for values in history.test.values()] == [2, 2]
    assert history.test["accuracy"][-1] == history["test"]["accuracy"]
    assert history.train["loss"][-1] == history["train"]["loss"]
    assert history.validation == {}
    assert json.loads(json.dumps(history.lines)) == history.lines
    table = str(history).splitlines()
    assert table[0].split("  ")[0] == "epoch"
    assert "test accuracy" in table[0]
    assert len(table) == 3
    assert isinstance(history, dict)


def test_targets_that_are_no_classes():
    """Regression with several targets: no accuracy, and measures of one's own."""
    target = np.stack([X.mean((1, 2, 3)), X.max((1, 2, 3))], 1)

    def mae(output, target):
        return np.abs(output - target).mean()

    history = train.train(
        (X, target), network(2), loss=nn.MSELoss(), metrics={"mae": mae}, validation=0.25, **{**OPTIONS, "epochs": 5}
    )
    assert history.train.keys() == history.validation.keys() == {"loss", "mae"}
    assert history.train["mae"][-1] < history.train["mae"][0]
    assert "mae" in str(history)
    with pytest.raises(FovealError, match="the targets are float32; cross-entropy takes class numbers: give the loss"):
        train.train((X, target), network(2), **OPTIONS)


def test_pixels_have_classes_too():
    """Segmentation: scores [N, K, H, W] and labels [N, H, W]; the loss of the validation is that of all pixels."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1))
    history = train.train((X, (X[:, 0] > 1).astype(int)), net, validation=(X, (X[:, 0] > 1).astype(int)), **OPTIONS)
    net.eval()
    scores, labels = net(X).transpose(0, 2, 3, 1).reshape(-1, 3), (X[:, 0] > 1).astype(int).reshape(-1)
    assert history["validation"] == {"accuracy": accuracy(scores, labels), "loss": cross_entropy(scores, labels)}


def test_the_memory_of_an_accumulating_run_holds_sums_and_state(dataset):
    plain, sums = (train.train(dataset, network(), accumulate=n, **OPTIONS)["memory_bytes"] for n in (1, 2))
    parameters = 4 * sum(p.size for p in network().parameters())
    # But for some numbers, such as rates.
    assert sums["variables"] - plain["variables"] == pytest.approx(parameters, abs=64)


def test_the_loss_of_validation_is_that_of_the_run():
    def loss(output, target):
        return ops.mean(output * output)

    net = network()
    history = train.train((X, Y), net, loss=loss, validation=(X, Y), **OPTIONS)
    net.eval()
    assert history["validation"]["loss"] == pytest.approx(float(np.mean(net(X) ** 2)), rel=1e-5)
    assert history["validation"]["accuracy"] == accuracy(net(X), Y)


@pytest.mark.parametrize("kind", ["arrays", "pairs", "dataset", "names"])
def test_a_share_is_held_out_by_classes(kind, dataset):
    seen = []
    uneven = np.repeat([0, 1, 2], [30, 12, 6])
    x = X.copy()
    x[:, 0, 0, 0] = np.arange(48)
    names = np.array(["a", "b", "c"])[uneven]
    data = {
        "arrays": (x, uneven),
        "pairs": list(zip(x, uneven.tolist(), strict=True)),
        "dataset": from_arrays("set", x, uneven, x, uneven),
        "names": (x, names),
    }[kind]

    def count(output, target):
        seen.append(np.bincount(target, minlength=3).tolist())
        return 0.0

    options = {**OPTIONS, "epochs": 1}
    more = {"metrics": {"count": count}, "augment": lambda x, _: x}
    history = train.train(data, network(), validation=1 / 6, **more, **options)
    validation = next(row for row in seen if sum(row) == 8)
    assert validation == [5, 2, 1]
    assert history["train_images"] == 40
    assert ("test" in history) == (kind == "dataset")


def test_other_validation_data(dataset):
    other = from_arrays("other", X[:30] * 2, Y[:30], X[:12] * 2, Y[:12])
    history = train.train(dataset, network(), validation=other, **OPTIONS)
    assert (history["validation_images"], history["test_images"]) == (12, 24)
    history = train.train(dataset, network(), validation=(X[:18], Y[:18]), **OPTIONS)
    assert history["validation_images"] == 18


def test_augmentation_is_a_name_a_function_or_a_list(dataset):
    calls = []

    def note(x, rng):
        calls.append(x.shape)
        return x

    history = train.train(dataset, network(), augment=["shift", note], **OPTIONS)
    assert history["augment"] == "shift+note"
    assert calls == [(12, 1, 8, 8)] * 8
    train.train((X, Y), network(), augment=note, **OPTIONS)
    assert len(calls) == 16


def test_optimisers_and_schedules_of_ones_own():
    net = network()
    rule = optim.Momentum(net.parameters(), lr=0.05)
    options = {name: value for name, value in OPTIONS.items() if name != "lr"}
    history = train.train((X, Y), net, optimizer=rule, **options)
    assert (history["optimizer"], history["lr"], history["schedule"]) == ("Momentum", 0.05, "the optimizer's")
    assert history.curves["lr"] == [0.05, 0.05]
    lookahead = lambda parameters: optim.Lookahead(optim.SGD(parameters, lr=0.2))  # noqa: E731
    history = train.train((X, Y), network(), optimizer=lookahead, schedule="constant", ema=0.5, **options)
    assert history["lr"] == history.curves["lr"][0] == 0.2
    for factory in (optim.AdamW, lambda parameters, lr: optim.AdamW(parameters, lr)):
        history = train.train((X, Y), network(), optimizer=factory, **OPTIONS)
        assert history.curves["lr"] == [0.01, 0.01]
    history = train.train((X, Y), network(), optimizer="sgd", schedule=lambda step: 0.1 / (1 + step), **OPTIONS)
    assert history.curves["lr"] == pytest.approx([0.1 / 4, 0.1 / 8])
    with pytest.raises(ShapeError, match="lr is given beside an optimizer that is made already"):
        train.train((X, Y), net, optimizer=rule, **OPTIONS)
    with pytest.raises(StateError, match="was made for"):
        train.train((X, Y), network(), optimizer=rule, **options)
    with pytest.raises(ShapeError, match="optimizer <lambda> returned 3"):
        train.train((X, Y), net, optimizer=lambda parameters: 3, **options)


def test_accumulated_batches_count_as_one(dataset):
    nets = [network() for _ in range(2)]
    for net in nets:
        # A batch norm would normalise each batch by itself.
        net[1] = nn.ReLU()
    history = train.train((X, Y), nets[0], **{**OPTIONS, "batch_size": 24, "optimizer": "sgd"})
    other = train.train((X, Y), nets[1], accumulate=2, **{**OPTIONS, "optimizer": "sgd"})
    for one, two in zip(*(weights(net).values() for net in nets), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert other["accumulate"] == 2
    assert other.curves["lr"] == history.curves["lr"]
    # three batches of 16 are two updates, the second of one batch
    seen = []
    train.train(
        (X, Y), network(), accumulate=2, schedule=lambda step: seen.append(step) or 0.1, **{**OPTIONS, "batch_size": 16}
    )
    assert max(seen) == 3


def test_a_callback_gets_values(dataset):
    epochs, steps = [], []

    class Steps(train.Callback):
        def on_train_begin(self):
            assert "validation loss" in self.run.names

        def on_step_end(self, values):
            steps.append(values)

        def on_train_end(self):
            steps.append("end")

    history = train.train(dataset, network(), validation=0.25, callbacks=[Steps(), epochs.append], **OPTIONS)
    assert [set(values) for values in epochs] == [
        {
            *("epoch", "lr", "train loss", "train accuracy", "validation loss", "validation accuracy", "test loss"),
            *("test accuracy", "seconds", "images per second"),
        }
    ] * 2
    assert epochs[1]["test loss"] == history["test"]["loss"]
    assert steps.pop() == "end"
    assert [(v["epoch"], v["step"], v["images"]) for v in steps] == [(e, s, 12) for e in (1, 2) for s in (1, 2, 3)]
    assert steps[0].keys() == {"epoch", "step", "loss", "lr", "images"}


@pytest.mark.parametrize("how", ["false", "raise", "step"])
def test_a_callback_ends_the_training(dataset, tmp_path, how):
    class AtStep(train.Callback):
        def on_step_end(self, values):
            return values["step"] < 2

    def enough(values):
        if how == "raise":
            raise train.StopTraining("it is enough")
        return False

    callback = AtStep() if how == "step" else enough
    history = train.train(dataset, network(), callbacks=callback, out=tmp_path, **{**OPTIONS, "epochs": 5})
    assert len(history.lines) == history["epochs_done"] == 1
    assert ("enough" if how != "step" else "AtStep returned False") in history.stopped
    assert history.stopped in str(history)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_an_error_in_a_callback_names_it_and_leaves_the_last_epoch(dataset, tmp_path):
    def broken(values):
        if values["epoch"] == 2:
            raise KeyError("thing")

    words = r"epoch 2: the callback .*broken, on_epoch_end: KeyError: 'thing'.*epoch 2 is"
    with pytest.raises(CallbackError, match=words):
        train.train(dataset, network(), callbacks=[broken], out=tmp_path, **{**OPTIONS, "epochs": 3})
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs_done"] == 2
    assert load_file(tmp_path / "model.safetensors")
    for wrong in (3, [train.EarlyStopping], [lambda: 3]):
        with pytest.raises(ArgumentError, match=r"callbacks holds .*give functions of the epoch's values"):
            train.train(dataset, network(), callbacks=wrong, **OPTIONS)


def stopping(losses, **options):
    """Early stopping fed with these losses; returns it and the number of epochs."""
    callback = train.EarlyStopping("validation loss", **options)

    class Fake:
        names, resumed = ("epoch", "validation loss", "train loss"), False

        def weights(self):
            return {}

    callback.run = Fake()
    callback.on_train_begin()
    for epoch, loss in enumerate(losses, 1):
        try:
            callback.on_epoch_end({"epoch": epoch, "validation loss": loss})
        except train.StopTraining as reason:
            return callback, epoch, str(reason)
    return callback, len(losses), None


def test_a_callback_serves_a_second_training(dataset):
    stop = train.EarlyStopping("train loss", patience=1, mode="max")
    for _ in range(2):
        assert len(train.train(dataset, network(), callbacks=[stop], **{**OPTIONS, "epochs": 4}).lines) == 2
        assert stop.best_epoch == 1


def test_a_training_may_end_before_it_begins(dataset):
    class Never(train.Callback):
        def on_train_begin(self):
            raise train.StopTraining("not today")

    history = train.train(dataset, network(), callbacks=Never(), **OPTIONS)
    assert (history, history.lines, history.stopped) == ({}, [], "not today")


def test_early_stopping_waits_for_its_patience():
    callback, epoch, reason = stopping([3, 2, 2.5, 2.2, 1, 1, 1, 1], patience=3)
    assert (epoch, callback.best, callback.best_epoch) == (8, 1, 5)
    assert reason == "validation loss has not improved since epoch 5, where it was 1"
    assert stopping([3, 2.95, 2.92, 2.85], patience=2, min_delta=0.1)[1] == 3
    assert stopping([3, 2, 1], patience=1)[2] is None
    assert stopping([3, float("nan"), 2], patience=2)[0].best == 2
    assert stopping([1, 2], patience=0)[1] == 2


def test_the_best_epoch_is_restored_in_the_network_and_in_the_files(dataset, tmp_path):
    net = network()
    stop = train.EarlyStopping("test accuracy", patience=1, mode="min", min_delta=10, restore_best=True)
    best = train.BestCheckpoint(tmp_path / "deep" / "best.safetensors", "test loss", mode="max", min_delta=1e9)
    after = []
    keep = lambda values: after.append(weights(net))  # noqa: E731
    history = train.train(dataset, net, callbacks=[stop, best, keep], out=tmp_path / "run", **{**OPTIONS, "epochs": 9})
    assert (len(history.lines), history["restored_epoch"]) == (2, 1)
    assert same(weights(net), after[0])
    assert same(load_file(tmp_path / "run" / "model.safetensors"), after[0])
    assert same(load_file(best.path), after[0])
    assert history["test"] == history.lines[0]["test"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == history
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2
    # An average is what is measured, so that is what is kept.
    net, kept = network(), train.BestCheckpoint(tmp_path / "ema.safetensors", "train loss")
    train.train(dataset, net, ema=0.5, callbacks=[kept], **OPTIONS)
    assert not same(load_file(kept.path), weights(net))


@pytest.mark.parametrize("callback", [train.EarlyStopping, lambda name: train.BestCheckpoint("never", name)])
def test_a_wrong_monitor_lists_the_names_before_the_first_epoch(dataset, callback):
    calls = []
    options = {"callbacks": [callback("val_loss"), calls.append], **OPTIONS}
    with pytest.raises(CallbackError, match=r"no value 'val_loss' to monitor; there are epoch, train loss, train acc"):
        train.train(dataset, network(), **options)
    mean = {"mean": lambda output, target: 1.0}
    with pytest.raises(CallbackError, match=r'say whether a small or a large .train mean. is better, mode="min"'):
        train.train(dataset, network(), **{**OPTIONS, "metrics": mean, "callbacks": [callback("train mean")]})
    assert calls == []


def test_logs_are_tables_or_lines_of_json(dataset, tmp_path):
    paths = tmp_path / "a" / "log.csv", tmp_path / "log.jsonl"
    history = train.train(dataset, network(), callbacks=[train.Log(path) for path in paths], **OPTIONS)
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in paths[1].read_text().splitlines()]
    assert [float(row["test loss"]) for row in rows] == [line["test loss"] for line in lines] == history.test["loss"]


class Stop(train.Callback):
    """Ends the training at a place, once."""

    def __init__(self, epoch, step=None):
        self.place = epoch, step

    def on_epoch_end(self, values):
        return not (self.place[1] is None and values["epoch"] == self.place[0])

    def on_step_end(self, values):
        return (values["epoch"], values["step"]) != self.place


@pytest.mark.parametrize("place", [(1, None), (2, 2)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_goes_on_to_the_same_bits(dataset, tmp_path, place, accumulate):
    """3 epochs are 1 and 2, with dropout, augmentation, averages, accumulation and a schedule with an end."""
    options = {**OPTIONS, "epochs": 3, "ema": 0.9, "accumulate": accumulate, "optimizer": "adamw", "batch_size": 9}
    path, log = tmp_path / "state.safetensors", tmp_path / "log.csv"

    def run(*callbacks, **more):
        net = network(dropout=0.3)
        stop = train.EarlyStopping(patience=5, restore_best=True)
        callbacks = [stop, train.SaveState(path), train.Log(log), *callbacks]
        return train.train(dataset, net, augment="shift", callbacks=callbacks, **options, **more), weights(net)

    whole, expected = run()
    run(Stop(*place))
    nn.seed(77)
    assert path.is_file()
    history, found = run(resume=path, out=tmp_path / "run")
    assert same(found, expected)
    assert [line["epoch"] for line in history.lines] == [1, 2, 3]
    assert history.test == whole.test
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ArgumentError, match="has 3 epochs behind it, and epochs is 3: give a larger number"):
        run(resume=load_file(path))


def test_what_is_resumed_has_to_fit(dataset, tmp_path):
    path = tmp_path / "state.safetensors"
    options = {**OPTIONS, "schedule": "constant"}
    train.train(dataset, network(), callbacks=[train.SaveState(path)], **options)
    more = {**options, "epochs": 3}
    with pytest.raises(StateError, match="loader: batch_size was 12 and is 8"):
        train.train(dataset, network(), resume=path, **{**more, "batch_size": 8})
    with pytest.raises(StateError, match=r"kind was .* and is"):
        train.train(dataset, network(), resume=path, **{**more, "optimizer": "adamw"})
    with pytest.raises(ArgumentError, match=r"resume is 3; give what train\.SaveState wrote"):
        train.train(dataset, network(), resume=3, **more)
    with pytest.raises(DataError, match="nowhere"):
        train.train(dataset, network(), resume=tmp_path / "nowhere", **more)
    assert len(train.train(dataset, network(), resume=path, **more).lines) == 3


WRONG = {
    "no network": (lambda: train.train((X, Y), **OPTIONS), "the network is missing: give one for this data"),
    "a name": (lambda: train.train((X, Y), "lenet5", **OPTIONS), "the network is the name 'lenet5'"),
    "two networks": (
        lambda: train.train((X, Y), network(), model=network(), **OPTIONS),
        "net and model are both given",
    ),
    "labels apart": (lambda: train.train(X, Y, **OPTIONS), r"images and labels are one argument, \(x, y\)"),
    "a share": (lambda: train.train((X, Y), network(), validation=1.5, **OPTIONS), "validation is 1.5; a share lies"),
    "a large share": (lambda: train.train((X, Y), network(), validation=0.99, **OPTIONS), "leaves none to train on"),
    "a share of a generator": (
        lambda: train.train(lambda: iter(PAIRS), network(), validation=0.1, **OPTIONS),
        "a generator cannot be divided",
    ),
    "a share of a loader": (
        lambda: train.train(Loader(X, Y, 12), network(), validation=0.1, **OPTIONS),
        "a Loader is not divided",
    ),
    "another batch size": (lambda: train.train(Loader(X, Y, 8), network(), **OPTIONS), "batch_size is 12, and the Loa"),
    "an augmentation apart": (
        lambda: train.train(Loader(X, Y, 12), network(), augment="shift", **OPTIONS),
        "augment is given beside a Loader",
    ),
    "a schedule of no end": (
        lambda: train.train(lambda: iter(PAIRS), network(), schedule="cosine", **OPTIONS),
        "how many batches a generator gives is not known; say length=",
    ),
    "a class of losses": (lambda: train.train((X, Y), network(), loss=nn.MSELoss, **OPTIONS), "loss is the class MSE"),
    "no number": (
        lambda: train.train((X, Y), network(), metrics={"shape": lambda o, t: o.shape}, **OPTIONS),
        r"shape returned \(12, 3\), it has to return one number",
    ),
    "accumulate": (lambda: train.train((X, Y), network(), accumulate=0, **OPTIONS), "accumulate is 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name):
    call, words = WRONG[name]
    with pytest.raises(FovealError, match=words):
        call()


def test_a_loop_of_ones_own_goes_on(tmp_path):
    """Training: batches from wherever it is, saved in the middle of an epoch and of a window."""
    path = tmp_path / "training.safetensors"

    def build():
        net = network(dropout=0.3)
        rule = optim.Momentum(net.parameters(), lr=0.01)
        step = foveal.compile_step(net, nn.CrossEntropyLoss(), rule, threads=1, accumulate=2)
        return train.Training(step, loader=Loader(X, Y, 10, shuffle=True, seed=4))

    whole = build()
    for x, y in whole.batches(epochs=2):
        whole.step(x, y)
    part = build()
    for x, y in part.batches(epochs=2):
        part.step(x, y)
        if part.step.steps == 7:
            part.save(path)
            break
    later = build()
    later.load(path)
    for x, y in later.batches(epochs=2):
        later.step(x, y)
    assert same(whole.state_dict(), later.state_dict())
    assert list(later.batches(epochs=2)) == []
    with pytest.raises(DataError, match="nowhere"):
        later.load(tmp_path / "nowhere")
    with pytest.raises(StateError, match="there is no loader"):
        next(train.Training(later.step).batches(1))
    with pytest.raises(StateError, match="a part is called model"):
        train.Training(later.step, parts={"model": later.step})


def test_the_number_of_the_epoch_is_stored_with_a_loader():
    net = network()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), threads=1)
    loader, later = (Loader(X, Y, 24, shuffle=True) for _ in range(2))
    list(loader), list(loader)
    train.load_state_dict(step, train.state_dict(step, loader=loader), loader=later)
    assert [y.tolist() for _, y in loader] == [y.tolist() for _, y in later]


def test_a_run_on_arrays_holds_its_network(tmp_path):
    net = network()
    train.train((X, Y), net, out=tmp_path / "run", **OPTIONS)
    again = foveal.load(tmp_path / "run")
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value)
    with pytest.raises(StateError, match=r"trained on arrays of which nothing more is known.*foveal\.load returns it"):
        train.load_net(tmp_path / "run")


def test_measures_of_several_outputs_get_all_of_them():
    class Two(nn.Module):
        def __init__(self):
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 1)

        def forward(self, x):
            return {"a": self.a(x), "b": self.b(x)}

    x, y = np.ones((8, 3), "float32"), {"a": np.ones((8, 2), "float32"), "b": np.ones((8, 1), "float32")}

    def loss(out, target):
        return ((out["a"] - target["a"]) ** 2).mean() + ((out["b"] - target["b"]) ** 2).mean()

    seen = {"b": lambda out, target: float(abs(out["b"] - target["b"]).mean())}
    history = train.train((x, y), Two(), loss=loss, epochs=1, quiet=True, validation=0.25, metrics=seen)
    assert len(history.validation["b"]) == 1


def test_an_optimiser_without_its_name_is_told_it():
    net = nn.Linear(3, 2)
    with pytest.raises(ArgumentError, match="such as optimizer=optimizer; the third argument is"):
        train.train((np.ones((8, 3), "float32"), np.zeros(8, int)), net, optim.SGD(net.parameters(), 0.1))


def test_what_is_no_data_yet_names_the_way():
    class DataLoader(list):
        """In place of PyTorch's."""

    with pytest.raises(ArgumentError, match=r"read it first: foveal\.data\.load\('digits'\)"):
        train.train("digits", network())
    with pytest.raises(ArgumentError, match=r"train\(loader\.dataset, net, batch_size=32\), or foveal\.data\.Loader"):
        train.train(DataLoader([(X, Y)]), network())
