"""What can be done with a finished model; no layers. Each file's function is public as foveal.nn.<its name>.

fold_batch_norm.py   for inference: batch norms are computed into the weights of the layers before them
variance_report.py   before training: how large activations and gradients are, layer by layer
"""
