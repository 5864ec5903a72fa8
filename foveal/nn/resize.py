"""Layers that change the size of images or sequences without weights: interpolation, and channels as pixels."""

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.arguments import check_positive
from foveal.nn.module import Module
from foveal.ops.op import Tensor

# the size of an output, and how many outputs there are by inputs
SizeLike = int | tuple[int, ...]
ScaleLike = float | tuple[float, ...]


class Upsample(Module):
    """Images or sequences in another size: x [N, C, H, W] -> [N, C, P, Q], or x [N, C, L] -> [N, C, Q]

    size: of the output, an int or (P, Q); or scale_factor: outputs by inputs, a number or (rows, columns), where the
    output size is rounded down. mode: "nearest", "nearest-exact", "linear" (sequences), "bilinear", "bicubic" (images),
    or "area". align_corners: for linear, bilinear and bicubic, True lets the centres of the first and last pixels
    coincide, and False (as if None) the borders of the images. ops.interpolate has the equations. Raises ShapeError
    for anything else, and unless either size or scale_factor is given.

        nn.Upsample(scale_factor=2, mode="bilinear")(np.zeros((1, 3, 4, 5), "float32")).shape    # (1, 3, 8, 10)
    """

    def __init__(
        self,
        size: SizeLike | None = None,
        scale_factor: ScaleLike | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        name = type(self).__name__
        if (size is None) == (scale_factor is None):
            raise ShapeError(f"{name}: give either size or scale_factor")
        for what, value in (("size", size), ("scale_factor", scale_factor)):
            numbers = value if isinstance(value, tuple | list) else (value,)
            if any(number is not None and number <= 0 for number in numbers):
                raise ShapeError(f"{name}: {what} is {value!r}, it has to be above 0")
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def check_attribute(self, name: str, value: object) -> None:
        if name == "mode" and value not in (*ops.interpolate.modes,):
            raise ShapeError(
                f"{type(self).__name__}: mode is {value!r}; choose one of {', '.join(ops.interpolate.modes)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        return ops.interpolate(
            x, size=self.size, scale_factor=self.scale_factor, mode=self.mode, align_corners=self.align_corners
        )

    def describe(self) -> str:
        asked = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        corners = "" if self.align_corners is None else f", align_corners={self.align_corners}"
        return f"{asked}, mode={self.mode}{corners}"


class UpsamplingNearest2d(Upsample):
    """Images in another size, each pixel repeated: Upsample with the mode "nearest" """

    def __init__(self, size: SizeLike | None = None, scale_factor: ScaleLike | None = None) -> None:
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Images in another size, interpolated between the centres of the pixels at the corners, which stay:
    Upsample with the mode "bilinear" and align_corners=True
    """

    def __init__(self, size: SizeLike | None = None, scale_factor: ScaleLike | None = None) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


class PixelShuffle(Module):
    """y[n, c, h r + i, v r + j] = x[n, (c, i, j), h, v]: channels become pixels; Shi et al. 2016, section 3.2

    x [N, C r r, H, W] -> y [N, C, H r, W r]. upscale_factor: r, 1 or more. Raises ShapeError for a number of channels
    that r r does not divide.
    """

    def __init__(self, upscale_factor: int) -> None:
        check_positive(type(self).__name__, upscale_factor=upscale_factor)
        self.upscale_factor = upscale_factor

    def forward(self, x: Tensor) -> Tensor:
        r = self.upscale_factor
        if len(x.shape) != 4 or x.shape[1] % (r * r):
            raise ShapeError(
                f"PixelShuffle: takes images [N, C, H, W] whose C is a multiple of {r}x{r}, got shape {x.shape}"
            )
        N, C, H, W = x.shape
        # [N, C, i, j, H, W] -> [N, C, H, i, W, j]
        y = ops.permute(x.reshape(N, C // (r * r), r, r, H, W), order=(0, 1, 4, 2, 5, 3))
        return y.reshape(N, C // (r * r), H * r, W * r)

    def describe(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """y[n, (c, i, j), h, v] = x[n, c, h r + i, v r + j]: pixels become channels, the reverse of PixelShuffle

    x [N, C, H r, W r] -> y [N, C r r, H, W]. downscale_factor: r, 1 or more. Raises ShapeError for rows or columns that
    r does not divide.
    """

    def __init__(self, downscale_factor: int) -> None:
        check_positive(type(self).__name__, downscale_factor=downscale_factor)
        self.downscale_factor = downscale_factor

    def forward(self, x: Tensor) -> Tensor:
        r = self.downscale_factor
        if len(x.shape) != 4 or x.shape[2] % r or x.shape[3] % r:
            raise ShapeError(
                f"PixelUnshuffle: takes images [N, C, H, W] whose H and W are multiples of {r}, got shape {x.shape}"
            )
        N, C, H, W = x.shape
        # [N, C, H, i, W, j] -> [N, C, i, j, H, W]
        y = ops.permute(x.reshape(N, C, H // r, r, W // r, r), order=(0, 1, 3, 5, 2, 4))
        return y.reshape(N, C * r * r, H // r, W // r)

    def describe(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """y[n, (i, g), ...] = x[n, (g, i), ...]: channels of all groups in turn; Zhang et al. 2018, section 3.1

    x [N, C, ...] -> y of the same shape. groups: G, a divisor of C, else ShapeError.
    """

    def __init__(self, groups: int) -> None:
        check_positive(type(self).__name__, groups=groups)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if len(x.shape) < 3 or x.shape[1] % self.groups:
            raise ShapeError(
                f"ChannelShuffle: takes x [N, C, ...] whose C is a multiple of groups={self.groups}, got shape"
                f" {x.shape}"
            )
        N, C, *axes = x.shape
        y = x.reshape(N, self.groups, C // self.groups, *axes)
        return ops.permute(y, order=(0, 2, 1, *range(3, 3 + len(axes)))).reshape(*x.shape)

    def describe(self) -> str:
        return f"groups={self.groups}"
