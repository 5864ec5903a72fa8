"""Data sets that are stored as arrays, a file for each format; `readers.py` has the table of them.

idx.py     the files of MNIST and EMNIST
cifar.py   the records of CIFAR-10's and CIFAR-100's binary version
npz.py     NumPy's archives
digits.py  scikit-learn's digits
"""
