"""Timing against a measured peak, and turn by turn against PyTorch where it is installed.

command.py the command line; timing.py turns and rows; models.py whole training steps;
operators.py single operators; against_torch.py all that knows PyTorch.
"""
