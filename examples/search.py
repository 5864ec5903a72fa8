"""A process of a search, which shares an Optuna study with others: pip install optuna.

    python search.py study.log & python search.py study.log & wait

Start as many as you like, on all machines that see the file, and again for more trials.
"""

import os
import sys
import tempfile
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from foveal import data, nn, train
from foveal.errors import NumericsError

digits = data.load("digits")


def objective(trial):
    """Return the loss on images that are held out, after a training."""
    lr = trial.suggest_float("lr", 0.001, 1.0, log=True)
    decay = trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True)
    trial.set_user_attr("process", os.getpid())

    nn.seed(0)
    convolution = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    net = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(256, 10))

    def report(values):
        trial.report(values["validation loss"], values["epoch"])
        # False ends the training.
        return not trial.should_prune()

    # The test images are left for the network that is chosen in the end.
    history = train.train(
        (digits.x_train, digits.y_train),
        net,
        optimizer="nesterov",
        lr=lr,
        weight_decay=decay,
        epochs=4,
        batch_size=64,
        validation=0.2,
        callbacks=[report],
        # As there may be a process for each core.
        threads=1,
        quiet=True,
    )
    if history.stopped:
        raise optuna.TrialPruned
    return history["validation"]["loss"]


path = Path(sys.argv[1] if sys.argv[1:] else f"{tempfile.mkdtemp()}/study.log")
# By a relative path Optuna does not find out that a lock was left by a killed process.
storage = JournalStorage(JournalFileBackend(str(path.absolute())))
study = optuna.create_study(study_name="digits", storage=storage, load_if_exists=True)
# A training whose loss becomes infinite is a failed trial.
study.optimize(objective, n_trials=6, catch=NumericsError)
print(f"process {os.getpid()}: {len(study.trials)} trials, best {study.best_params}")
