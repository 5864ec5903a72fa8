"""How convolutions and their gradients are computed.

The choice. An operator of ops/conv.py describes its shapes as a `Problem` (cost_model.py) and asks `select.choose` for
the algorithm, Winograd or direct: the one that the cost model finds cheaper, or that FOVEAL_TUNE=1 has measured to be
faster. With that it calls select.py's lower_forward, lower_input_grad or lower_weight_grad, which lowers Winograd's
kernels, or the first direct kernel in the order of the table that fits the shape (the `fits` functions stand beside
their kernels). So whether and where a kernel is used is decided in cost_model.py and select.py and nowhere else.

Letters in all files here: N images, C channels, K filters, G groups, so that a filter has c_group = C/G channels;
images have H x W pixels, outputs P x Q, filters R x S. A tap is a place (r, s) of a filter, a weight is an element
(r, s, c).

When Winograd is chosen. It can compute 3x3 filters with stride 1 or 2 on both axes, dilation 1 and one group, in tiles
of m x m outputs, m = 2, 3 or 4; with stride 1 also m = 7, whose tiles are joined of 4 and 3. It is chosen if its
modelled cost, with the best m, is below 0.95 of that of direct convolution (`Problem.default` in cost_model.py). The
cost counts vector operations; where filters are the same in every run (inference) they are packed or transformed once,
and it counts the bytes that are read of them, 9 to 36 numbers of each (`Problem.prepared_cost`): few pixels with many
filters wait for memory. For the gradient in the weights with 32 registers C and K also have to be at most 64, or to
have a divisor from 32 to 96.

The tables. Register tile: rows x vectors of what is summed up in registers at once; its size follows from the number of
registers (register_tile.py). Lanes: what the elements of a vector are. Chosen when: a direct kernel is chosen if its
condition holds and that of no direct kernel above it; "faster by its model" means that its function `fits` counts less
time, for products (empty lanes included) and staging, than with lanes over filters. Peak: the measured share of what
the multipliers can do, of one core where that is said (the docstring of the file has the details), else of two cores
(docs/results.md, Zen 4). Winograd's counts the multiplications of direct convolution, of which it needs 36 of 144
with m = 4, or 81 of 144 with stride 2. "1 -> 6" is a convolution of 1 channel with 6 filters.

Forward, and the gradient in x, which is a convolution too:

| file | register tile | lanes | chosen when | peak |
| --- | --- | --- | --- | --- |
| winograd_few_tiles.py | tiles x filters | filters | as winograd.py; prepared filters, few tiles | 100-210 % |
| winograd.py | tiles x filters | filters | modelled cost < 0.95 of direct convolution's | 195-305 % |
| depthwise.py | pixels | channels | one filter per channel | limited by memory |
| direct_phases.py | pixels x filters | filters of phases | faster by its model: few filters, gradient with stride | - |
| direct_simd_batch.py | filters x images | images | faster by its model: few filters | 1 -> 6: 74 % |
| direct_few_pixels.py | pixels x filters | filters | prepared filters, 128 pixels at most | limited by memory |
| conv1x1.py | pixels x filters | filters | 1x1, stride 1, no padding: a matrix product | 85-90 % |
| direct_batch.py | images x filters | filters | 4 images and more; by its model: padding, caches | as direct.py |
| direct.py | pixels x filters | filters | any other | one core: 94-99 % |

The gradient in the weights:

| file | register tile | lanes | chosen when | peak |
| --- | --- | --- | --- | --- |
| winograd_weight_grad_shared.py | channels x filters | filters | as the next; 16 registers, C or K > 64 | 155-190 % |
| winograd_weight_grad.py | channels x filters | filters | modelled cost < 0.95 of direct convolution's | 135-220 % |
| weight_grad_depthwise.py | taps | channels | one filter per channel, apart from dx | one core: 90 % |
| weight_grad_simd_batch.py | weights x filters | images | faster by its model, 64 weights at most | 1 -> 6: 51 % |
| weight_grad_1x1.py | channels x filters | filters | one tap, no padding, one group | 60-75 % |
| weight_grad.py | channels x filters | filters | any other | one core: 94-98 % |

Where a depthwise convolution's gradients in x and in the weights are both wanted, depthwise.py computes them together.

`foveal bench ops conv2d` prints the machine's peak and the GFLOP/s of each row, `foveal bench ops 3x3` the rows that
Winograd is for, `--threads 1` those of one core. DEBUG=2 prints the share of the peak of each kernel of a program.

The other files: filter_tile.py (what the direct kernels whose lanes run over filters share), weight_grad_division.py
(how weight_grad.py divides its work), winograd_matrices.py (the algorithm and its matrices), winograd_transform.py (the
matrices as additions of vectors), winograd_grid.py (where output tiles lie), winograd_input.py (tiles read and
transformed), winograd_products.py (their products with filters), winograd_output.py (the transform back).

Kernels of one shape differ in their epilogues only. What comes before these (the transforms of inputs and the products
of Winograd convolution) is in functions that kernels call by address, so that it is compiled once for all of them.
"""
