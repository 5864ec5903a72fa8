"""1x1 convolution and its gradient in x: a product of pixels x channels, which knows neither rows nor columns nor
images.
"""

from typing import Any

from foveal.kernel.lang import head, loop, parallel
from foveal.ops.kernels.epilogue import BoundEpilogue, Epilogue, EpilogueOutputs
from foveal.ops.kernels.register_tile import (
    ENOUGH_TASKS,
    accumulators,
    multiply_add,
    part_of_blocks,
    pieces,
    split,
    tile_for,
    unrolling,
)
from foveal.ops.kernels.taps import Taps
from foveal.ops.op import Lowering

CHUNK = 96 << 10  # elements of the pixels that stay in the second-level cache while all panels pass


def fits(y: EpilogueOutputs, x: Any, w: Any, axes: tuple[tuple[Taps, ...], tuple[Taps, ...]]) -> bool:
    """Whether each output pixel reads the input pixel at its own place, and all images are one row of pixels."""
    same = all(len(taps) == 1 and taps[0].taps == taps[0].input_step == 1 and taps[0].origin == 0 for taps in axes)
    images = [*y.outputs, *y.extras, x]
    return same and w.shape[0] == 1 and y.shape[2:] == x.shape[2:] and all(evenly_spaced(image) for image in images)


def evenly_spaced(image: Any) -> bool:
    """Whether the pixels of [N, C, H, W] are one row."""
    N, _, H, W = image.shape
    step = image.strides[3]
    return (H == 1 or image.strides[2] == W * step) and (N == 1 or image.strides[0] == H * W * step)


def one_row(image: Any) -> Any:
    """[N, C, H, W] as [1, C, 1, N H W]."""
    N, C, H, W = image.shape
    return image.permuted(1, 0, 2, 3).reshaped((C, 1, 1, N * H * W)).permuted(1, 0, 2, 3)


def lower(to: Lowering, y: EpilogueOutputs, x: Any, panels: Any, outputs: int) -> None:
    """Tasks are (chunk of pixels, part of the filters)."""
    y, x = y.each(one_row), one_row(x)
    chunks = chunks_of(x.shape[3], x.shape[1], tile_for(outputs).rows)
    tasks = sum(n for _, _, n in chunks)
    parts = min(panels.shape[1], -(-ENOUGH_TASKS // tasks))
    y.call(to, correlate_pixels, tasks, [], [x.permuted(0, 2, 3, 1), panels], outputs=outputs, parts=parts)


def chunks_of(pixels: int, channels: int, most: int) -> list[tuple[int, int, int]]:
    """(pixels of a tile, tiles, chunks that these are cut into)"""
    cut = []
    for size, count in split(pixels, most):
        chunks = max(-(-count * size * channels // CHUNK), ENOUGH_TASKS)
        cut.append((size, count, min(count, chunks)))
    return cut


def correlate_pixels(*arrays: Any, outputs: int, parts: int, epilogue: Epilogue) -> None:
    """y[pixel, k] = sum_c x[pixel, c] panels[k // columns, c, k % columns], a register tile at a time.

    A chunk of pixels stays in the second-level cache while all panels pass. The next tile's pixels are fetched early:
    from
    memory they come in as many short streams as a tile has pixels, which the prefetcher does not follow.
    """
    ending = BoundEpilogue(epilogue, arrays, 2)
    x, panels = ending.own
    tile, (_, _, pixels, channels) = tile_for(outputs), x.shape
    first, done = 0, 0
    for size, count, chunks in chunks_of(pixels, channels, tile.rows):
        for chunk, part in parallel(chunks, parts):
            task = chunk + done
            start, end = chunk * count // chunks, (chunk + 1) * count // chunks
            for _, b, valid in part_of_blocks(1, outputs, tile.columns, part, parts):
                for lane, width in pieces(valid, tile.width):
                    ending.open(task, b * tile.columns + lane, width)
                for t in loop(end, start=start):
                    tile_of_pixels(ending, task, x, panels, t * size + first, size, b, valid)
        first, done = first + size * count, done + chunks


def tile_of_pixels(
    ending: BoundEpilogue, task: Any, x: Any, panels: Any, pixel: Any, size: int, b: Any, valid: int
) -> None:
    """`size` pixels from `pixel` on, for the `valid` outputs of block b."""
    channels, columns = panels.shape[4:]
    tile = tile_for(columns)
    starts = pieces(valid, tile.width)
    acc = accumulators(size, [tile.width] * len(starts))
    step = unrolling(channels)
    pixels = [(0, 0, pixel + i) for i in range(size)]
    ending.prefetch(pixels, b * columns, valid)
    at, panel = x.at(0, 0, pixel, 0), panels.at(0, b, 0, 0, 0, 0)
    for c in loop(channels // step):
        if step > 3:
            for i in range(size):
                at.prefetch((0, 0, i + size, c * step))
        for u in range(step):
            ws = [panel.load((0, 0, 0, 0, c * step + u, start), tile.width) for start, _ in starts]
            multiply_add(acc, (at[0, 0, i, c * step + u] for i in range(size)), ws)
    for v, (lane, width) in enumerate(starts):
        sums = [head(acc[i, v], width) for i in range(size)]
        ending.store(task, pixels, sums, b * columns + lane, width)
