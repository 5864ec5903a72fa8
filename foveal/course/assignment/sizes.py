"""The size of an output."""


def output_size(length: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return how many positions a window has along an axis.

    length: pixels along the axis. kernel: taps of the window. stride: pixels from one position to the next. padding:
    pixels that are added on each of both sides. dilation: pixels from one tap to the next. The window fits at least
    once.

    For example, output_size(28, 3, 1, 0, 1) is 26, and output_size(5, 3, 3, 0, 1) is 1.
    """
    return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
