"""The matrices of Winograd's minimal filtering for 3x3 filters, stride 1 or 2, and the points that they come from.

Sources: Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, Fast Algorithms for Convolutional Neural
Networks, CVPR 2016, equations 6 to 12. F(m, r) computes m outputs of a filter with r taps by m + r - 1 multiplications
instead of m r. In two dimensions, F(m x m, 3 x 3), one tile of outputs is (equation 8)

    y = A^T [(G g G^T) * (B^T d B)] A        d: the (m + 2) x (m + 2) inputs of the tile, g: the 3 x 3 filter

where * multiplies element by element. Both transforms are linear, so the sum over input channels is taken of the
products. The elements of a transformed tile are called its points, since each is a value at a pair of interpolation
points; for each of the (m + 2)^2 points the sum is a matrix product of tiles x filters (equation 12). For m = 4 that is
36 multiplications where the direct sum needs 144. The transforms cost additions and few multiplications by constants,
in proportion to C and to K, while the products are in proportion to C K.

The matrices follow from Toom-Cook interpolation: a filter with r taps times a signal of m numbers is a product of
polynomials, which is found by evaluating both at m + r - 2 points and at infinity (G and A, for the transposed problem
that a correlation is), multiplying there, and interpolating (B^T, by the Lagrange polynomials of the points).

Stride 2. Each axis splits into two phases: the even inputs meet taps 0 and 2, which is F(m, 2) with m + 1
multiplications; the odd inputs meet tap 1 alone, which takes m multiplications and no transform: these m inputs are
points as they are. So m = 4 takes (2 m + 1)^2 = 81 multiplications where the direct sum takes 144. The gradient in x is
the transposed problem: of 2 m of its outputs on an axis, every second one meets two taps and the others meet one. All
points of the phase with one tap are multiplied with the same element of the transformed filter: they form one class.

Joined tiles. Seven outputs of an axis are a tile of 4 and one of 3. With points that are among those of the tile of 4,
the tile of 3 is multiplied with the same transformed filter, so both are one tile of 11 points, of which five pairs are
of one class. Where an image has 7 x 7 outputs that takes 121 multiplications, four tiles of 4 x 4 take 144.

The gradient in the weights swaps the roles: its 3 x 3 result is a correlation of d with an m x m tile of dy,

    dw = A_w^T [sum over tiles of (G_w dy G_w^T) * (B^T d B)] A_w

so that only the sum over all tiles is transformed back.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from foveal.strides import Ndarray

# Finite interpolation points for stride 1 by tile size m; the point at infinity is always added. Larger points enlarge
# rounding errors: for m = 4 these give a quarter of the error of the customary 0, +-1, +-2, for m = 3 half of that of
# 0, +-1, 2.
POINTS = {2: (0.0, 1.0, -1.0), 3: (0.5, -0.5, 1.25, -1.25), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}

# Sizes of tiles that are joined of two, which share a transformed filter: m -> the sizes of the two, largest first.
JOINED = {7: (4, 3)}

# Finite interpolation points for F(m, 2), the phase of stride 2 that meets two taps, by m. For m = 4 these give a third
# of the error of 0, +-1, 2.
PHASE_POINTS = {2: (0.0, 1.0), 3: (0.0, 1.0, -1.0), 4: (0.5, -0.5, 1.25, -1.25)}

# Sizes of tiles by stride.
TILE_SIZES = {1: (*POINTS, *JOINED), 2: tuple(PHASE_POINTS)}

Row = tuple[float, ...]

Matrix = tuple[Row, ...]


@dataclass(frozen=True)
class Scheme:
    """The matrices of minimal filtering along one axis.

    Points of a class are multiplied with the same element of the transformed filter, a row of G.
    """

    #: inputs from the first input of a tile to the first input of the next one
    step: int
    #: the class of each point
    class_of: tuple[int, ...]
    #: the inputs that the columns of B^T are for; joined tiles read those that both need once for each
    reads: tuple[int, ...]
    #: A^T [outputs, points]: products -> outputs
    AT: Matrix
    #: B^T [points, reads]: inputs -> points
    BT: Matrix
    #: G [classes, 3]: taps -> classes
    G: Matrix
    #: G_w [points, m]: a tile of dy -> points; scaled so that few of its elements need a multiplication
    GW: Matrix
    #: A_w^T [3, classes]: sums of products -> the gradient's taps; has the inverse of that scale
    AW: Matrix

    @property
    def outputs(self) -> int:
        """Outputs of a tile on this axis."""
        return len(self.AT)

    @property
    def inputs(self) -> int:
        """Inputs of a tile on this axis."""
        return max(self.reads) + 1

    @property
    def points(self) -> int:
        """Elements of a transformed tile on this axis."""
        return len(self.BT)

    @property
    def classes(self) -> int:
        """Elements of a transformed filter on this axis."""
        return len(self.G)


def forward_scheme(m: int, stride: int) -> Scheme:
    """m outputs of a convolution with stride 1 or 2."""
    return scheme(m) if stride == 1 else strided(m)


@cache
def scheme(m: int) -> Scheme:
    """F(m, 3), stride 1: m outputs of m + 2 inputs, of one tile or of two that are joined."""
    if m in JOINED:
        return joined(*JOINED[m])
    return scheme_of(m, range(m + 2), range(m + 2), *interpolation(m, 3, POINTS[m]))


def joined(first: int, second: int) -> Scheme:
    """F(first, 3) and F(second, 3) side by side, as one tile: the second is computed at some of the first one's points.

    So both are multiplied with the same transformed filter, of which the second leaves out the elements of the smallest
    points. One tile of 4 and one of 3 cover 7 outputs with 11 points, where two tiles of 4 have 12.
    """
    all_points, size = POINTS[first], first + second
    left_out = sorted(all_points, key=abs)[: first - second]
    points = tuple(p for p in all_points if p not in left_out)
    AT, BT, G, GW, AW = interpolation(first, 3, all_points)
    other_AT, other_BT, _, other_GW, _ = interpolation(second, 3, points)
    # G and A_w of the first tile divide by the differences of a point from those that are left out, too
    for row, p in zip(other_BT, points, strict=False):
        row *= math.prod(p - q for q in left_out)
    matrices = [block_diagonal(*pair) for pair in ((AT, other_AT), (BT, other_BT), (GW, other_GW))]
    class_of = [*range(first + 2), *(i for i, p in enumerate((*all_points, None)) if p not in left_out)]
    reads = [*range(first + 2), *range(first, size + 2)]
    AT, BT, GW = matrices
    return scheme_of(size, class_of, reads, AT, BT, G, GW, AW)


def block_diagonal(first: Ndarray, second: Ndarray) -> Ndarray:
    """[[first, 0], [0, second]]"""
    rows, columns = np.add(first.shape, second.shape)
    both = np.zeros((rows, columns))
    both[: len(first), : first.shape[1]] = first
    both[len(first) :, first.shape[1] :] = second
    return both


def scheme_of(step: int, class_of: Iterable[int], reads: Iterable[int], *matrices: Ndarray) -> Scheme:
    """The scheme with these matrices: AT, BT, G, GW, AW."""
    return Scheme(step, tuple(class_of), tuple(reads), *map(as_matrix, matrices))


@cache
def strided(m: int) -> Scheme:
    """Stride 2: m outputs of 2 m + 1 inputs, F(m, 2) of the m + 1 even inputs, and the m odd inputs as they are."""
    AT, BT, G, GW, AW = phases(m)
    # [2 m + 1 points, 2 m + 1 inputs]: first the phase with two taps, then the one with the middle tap
    both = np.zeros((2 * m + 1, 2 * m + 1))
    both[: m + 1, ::2], both[m + 1 :, 1::2] = BT, np.eye(m)
    AT, GW = np.hstack([AT, np.eye(m)]), np.vstack([GW, np.eye(m)])
    return scheme_of(2 * m, phase_classes(m), range(2 * m + 1), AT, both, G, GW, AW)


@cache
def transposed(m: int, first: int) -> Scheme:
    """The gradient in x of stride 2: 2 m outputs of m + 1 inputs.

    Outputs first, first + 2, ... have two taps, the others have the middle one; `first` is 0 or 1.
    """
    AT, BT, G, GW, AW = phases(m)
    # [2 m outputs, 2 m + 1 points]: the outputs of both phases alternate
    both = np.zeros((2 * m, 2 * m + 1))
    both[first::2, : m + 1], both[1 - first :: 2, m + 1 :] = AT, np.eye(m)
    # where the outputs begin with the phase of two taps, its middle taps meet inputs from number 1 on
    BT = np.vstack([BT, np.eye(m, m + 1, k=1 - first)])
    GW = np.vstack([GW, np.eye(m)])
    return scheme_of(m, phase_classes(m), range(m + 1), both, BT, G, GW, AW)


def phase_classes(m: int) -> list[int]:
    """The class of each point of stride 2: the m points of the phase with one tap are of one class."""
    return [*range(m + 1), *[m + 1] * m]


def phases(m: int) -> list[Ndarray]:
    """AT, BT and G_w of F(m, 2), and G and A_w for all three taps: the middle tap is the last class."""
    AT, BT, two_taps, GW, two_sums = interpolation(m, 2, PHASE_POINTS[m])
    # [m + 1 classes of F(m, 2) and one for the middle tap, 3 taps], and its counterpart for the gradient
    G, AW = np.zeros((m + 2, 3)), np.zeros((3, m + 2))
    G[:-1, ::2], AW[::2, :-1] = two_taps, two_sums
    G[-1, 1] = AW[1, -1] = 1.0
    return [AT, BT, G, GW, AW]


def interpolation(m: int, taps: int, points: tuple[float, ...]) -> list[Ndarray]:
    """AT, BT, G, G_w, A_w^T of F(m, taps) by Toom-Cook interpolation at `points` and infinity.

    points: the finite ones; with infinity there are n = m + taps - 1. Row j of BT holds the coefficients of the product
    of (x - q) over all points q but the j-th, lowest power first; its value at the j-th point is divided out in G and
    A_w instead.
    """
    n = m + taps - 1
    BT = np.zeros((n, n))
    for j, p in enumerate(points):
        BT[j, : n - 1] = np.poly([q for q in points if q != p])[::-1]
    BT[n - 1] = np.poly(points)[::-1]
    scale = np.array([math.prod(p - q for q in points if q != p) for p in points] + [1.0])
    powers = {size: evaluation(points, size) for size in (taps, m)}
    return [powers[m].T, BT, powers[taps] / scale[:, None], powers[m], powers[taps].T / scale]


def evaluation(points: tuple[float, ...], size: int) -> Ndarray:
    """[points and infinity, size]: evaluates a polynomial of `size` coefficients at each point.

    At infinity that is its highest coefficient.
    """
    rows = [[p**i for i in range(size)] for p in points]
    return np.array([*rows, [0.0] * (size - 1) + [1.0]])


def as_matrix(array: Ndarray) -> Matrix:
    """Tuples of plain floats, which can be compared and hashed."""
    return tuple(tuple(float(v) for v in row) for row in array)
