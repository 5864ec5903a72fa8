"""Functions that take a finished model, and no layers. Each is public in foveal.nn under the name of its file.

fold_batch_norm.py   for inference: batch norms are computed into the weights of the layers before them
variance_report.py   before training: how large activations and gradients are, layer by layer
"""
