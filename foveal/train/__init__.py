"""Training: the loop, what it measures, the files it leaves, and the search for hyper-parameters.

loop.py         `train`: the training loop, one epoch after the other
feed.py         what a run trains on and is measured by, as loaders
best.py         which epoch a run keeps
callbacks.py    what is called while a training goes on; the table of values that callbacks get
history.py      what a training was like, by epoch
measure.py      loss, accuracy and other measures of a network on a loader's items
settings.py     the options of a run, and what is built from them: network, loss
updates.py      the optimiser of a run, with groups and averages, and its schedules
recipes.py      the network and the hyper-parameters by size and number of the images, where no option says otherwise
measured.py     what a run finds out before its first step: whether it fits into memory, a rate, epochs by time
together.py     a run on shards, which several ranks may share
succession.py   another rank leads a run once rank 0 is gone
start.py        the weights that a run starts from
phases.py       fine-tuning: the last layer first, then all at rates by depth
first_layer.py  a first layer that whitens patches of the training images
tally.py        loss, accuracy, other measures, time and speed, counted step by step
progress.py     what a person sees of a run while it goes on
files.py        errors of writing files, and locks
metadata.py     what the description in a model file may say, checked
checkpoint.py   the files of a run, and loading a trained network from them
run_folder.py   writing the files of a run while it goes on
classifier.py   Classifier: a trained network that is called on photos; `load`
checkpoints.py  checkpoints of a run, with checksums: the last one and the one before it
run_file.py     run.json: what a run was started with, and whether it can go on
resume.py       going on with a training from a state, or with the run in a folder
keeper.py       what a run leaves on disk while it goes on, and what is said where that fails
signals.py      Ctrl-C and SIGTERM while a run goes on
run_state.py    how far a run is, its history and its callbacks, as parts of its state
averaged.py     what a model is worth with its test-time augmentation
calibration.py  `calibrate`: the temperature and the thresholds of a trained model
held_out.py     the images that a run has held out by a share, found again
kept_states.py  the states of its network that a run has kept, from its start to the model that it left
model_card.py   MODEL.md: what a model is for, what it was trained and tested on
features.py     embeddings of images, and simple classifiers on them
evaluate.py     logits of a network on a set of images, and their metrics
views.py        test-time augmentation: what is seen of an image, and the mean of the answers
compile_only.py  what a run compiles, without training
state.py        the state of a whole training as arrays, to go on from later
tune.py         `foveal tune`: learning rate, batch size, momentum and weight decay by short runs; their files
short_runs.py   the short runs that `tune` compares
tune_crew.py    short runs in several processes side by side
tune_worker.py  one of these processes
range_test.py   the learning rate range test
repeating.py    the command that trains the same again, where a time was given
findings.py     the findings of `foveal tune`: range test, short runs, choices
tune_plot.py    the picture of the findings; needs matplotlib
"""

from foveal.arguments import check_calls
from foveal.metrics import accuracy, cross_entropy
from foveal.train.best import BestEpoch
from foveal.train.calibration import Calibrated, calibrate
from foveal.train.callbacks import BestCheckpoint, Callback, EarlyStopping, Log, SaveState, StopTraining
from foveal.train.checkpoint import ModelDescription, load_net, load_run
from foveal.train.classifier import Classifier, Prediction
from foveal.train.evaluate import classification_report, evaluate, predict
from foveal.train.features import Probe, features, probe
from foveal.train.history import History
from foveal.train.kept_states import KeptStates, kept_states
from foveal.train.loop import train
from foveal.train.model_card import write_card
from foveal.train.run_folder import RunFolder
from foveal.train.settings import Options, RunOptions, Settings, TrainOptions
from foveal.train.state import Training, load_state_dict, state_dict

__all__ = [
    "BestCheckpoint",
    "BestEpoch",
    "Calibrated",
    "Callback",
    "Classifier",
    "EarlyStopping",
    "History",
    "KeptStates",
    "Log",
    "ModelDescription",
    "Options",
    "Prediction",
    "Probe",
    "RunFolder",
    "RunOptions",
    "SaveState",
    "Settings",
    "StopTraining",
    "TrainOptions",
    "Training",
    "accuracy",
    "calibrate",
    "classification_report",
    "cross_entropy",
    "evaluate",
    "features",
    "kept_states",
    "load_net",
    "load_run",
    "load_state_dict",
    "predict",
    "probe",
    "state_dict",
    "train",
    "write_card",
]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__
