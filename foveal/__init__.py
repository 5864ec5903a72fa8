"""Foveal: convolutional networks in pure Python, compiled to native code at run time."""
