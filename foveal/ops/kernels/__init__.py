"""How operators are computed: the kernels, written in the kernel language, and the choice between them.

foveal.ops says what is computed and holds every class derived from Operator; this package says how and holds none. It
is used by the `lower` methods and plain kernels of operators, and by foveal.lower, which calls the kernels of fused
groups.

    file              what it computes
    ----------------  ------------------------------------------------------------------------------------------------
    expression.py     the steps of a fused group at one index: loads, pointwise operators in registers, stores
    sizes.py          sizes and numbers that a kernel gets from its call, so that many calls share one code
    pointwise.py      a fused group of pointwise operators over a whole domain
    reduction.py      sums and maxima over axes, with the pointwise steps that they read fused into them
    rows.py           all reductions over each row of a domain, and the steps between them, in passes over the row
    epilogue.py       what becomes of a kernel's results while they are in registers: steps, sums, moments, stores
    moments.py        mean and variance per channel, merged pairwise
    pool.py           max and average pooling over windows, and their gradients
    pool_loops.py     the same for windows of many taps, with loops over taps
    dropout.py        random masks of dropout, drawn in C order
    one_hot.py        labels as rows that are 1 at the label and 0 elsewhere
    copy_rows.py      parts of arrays put side by side, row by row in memory
    reorder.py        copies from one memory order to another, such as images with neighbouring channels and planes
    taps.py           which inputs each output of a convolution reads, along one axis
    halo.py           bands of an image in a buffer with a border of zeros
    packing.py        weights in the order in which a register tile reads them; transposing copies
    register_tile.py  products accumulated in registers: how large the tile is, and its multiply-adds
    magnitudes.py     the largest magnitudes of many arrays in one pass
    partial_sums.py   sums of parts of the work, added in a fixed order
    gemm.py           matrix products
    transposed_product.py  products of matrices that are both read along their long side
    transposed_copies.py   the channels and filters of its tasks, and the copies of their pixels
    conv/             convolutions and their gradients: a file per algorithm, and which one is chosen
"""
