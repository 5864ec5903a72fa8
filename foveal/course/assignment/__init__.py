"""The assignment: the layers of a small convolutional network, written in NumPy.

These files are its solutions. What students get is made of them: the functions that have a docstring, without what
follows it (`handout.py`). They import NumPy and each other alone, since they have to run where Foveal does not; helper
functions start with `_`, and are left out.

sizes.py        the size of an output
convolution.py  convolution by loops, and its gradients
pooling.py      max and average pooling, and their gradients
layers.py       the fully connected layer and ReLU, and their gradients
batch_norm.py   batch normalisation in training and evaluation, and its gradients
losses.py       softmax cross-entropy, and the class-balanced focal loss
optimisers.py   a step of SGD with momentum, and of Adam
fast.py         convolution by im2col and one matrix product
network.py      a small network that is trained
README.md       the sheet that goes with it
"""
