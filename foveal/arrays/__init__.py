"""What arrays can do, in code that is traced and elsewhere: operators and methods of Tensor and Variable. By file:

    calls.py       the operators by name, and what records them in this thread
    indexing.py    x[...]: parts of an array, as NumPy takes them
    tensor.py      ArrayMethods, the operators and methods; Tensor, which functions that are traced compute with

The names and their meaning are NumPy's, and PyTorch's where NumPy has none. An axis is called `axis`; reductions also
take `axes`, as their operators do. The operators themselves are in foveal/ops, above this folder, and enter themselves
here.
"""
