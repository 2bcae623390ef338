"""Residual CNNs on real channels, in two or three dimensions.

Both start as the identity (their last convolution is zero), so that an untrained unrolled network
is the plain iterative algorithm. Both keep little for the backward pass: activations act in place
wherever their input is not needed again, and convolutions run channels-last, the layout in which
complex images already lie.
"""

from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["zeros", "reflect"]


class Conv3d(nn.Conv3d):
    """A 3D convolution that a CPU computes as a sum of 2D ones over the planes.

    There, with 8 to 64 channels, 3D kernels take 4 to 8 times as long as that.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, z, y, x)`` to the same shape, other channels."""
        if x.device.type != "cpu" or self.padding_mode != "zeros":
            return super().forward(x)
        planes = x.movedim(2, 1)
        half = self.kernel_size[0] // 2
        taps = self.weight.unbind(2)
        result = self._convolve(planes, taps[half], self.bias)
        reach = min(half, planes.shape[1] - 1)
        for shift in [*range(-reach, 0), *range(1, reach + 1)]:
            count = planes.shape[1] - abs(shift)
            moved = self._convolve(planes.narrow(1, max(0, shift), count), taps[half + shift])
            result.narrow(1, max(0, -shift), count).add_(moved)
        return result.movedim(1, 2)

    def _convolve(self, planes: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        padding = self.kernel_size[0] // 2
        together = F.conv2d(planes.flatten(0, 1), weight, bias, padding=padding)
        return together.unflatten(0, planes.shape[:2])


class Separable(nn.Module):
    """A 3D convolution in two factors: 3x3 over (y, x), and 3 over the axis before, t or z.

    The factor over t or z comes where there are fewer channels, before or behind the other, so that
    it never costs more than a third of that. It starts as the identity: an untrained network treats
    every plane by itself, at the scale of a 2D one. Both run as 2D convolutions.

    Args:
        inputs: channels.
        outputs: channels.
        bias: added at the end.
        padding: ``"zeros"`` or ``"reflect"``.
    """

    def __init__(
        self, inputs: int, outputs: int, bias: bool = False, padding: Padding = "zeros"
    ) -> None:
        super().__init__()
        narrow = min(inputs, outputs)
        self.line_first = inputs < outputs
        self.plane = nn.Conv2d(
            inputs, outputs, 3, padding=1, bias=bias and self.line_first, padding_mode=padding
        )
        self.line = nn.Conv2d(
            narrow,
            narrow,
            (3, 1),
            padding=(1, 0),
            bias=bias and not self.line_first,
            padding_mode=padding,
        )
        weight = nn.init.dirac_(self.line.weight.detach())
        # Or torch does not see that images lie channels-last, and the line takes twice as long.
        self.line.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, inputs, t, y, x)`` to ``(batch, outputs, t, y, x)``."""
        if self.line_first:
            return self._in_planes(self._along_lines(x))
        return self._along_lines(self._in_planes(x))

    def _in_planes(self, x: Tensor) -> Tensor:
        planes = x.movedim(2, 1)
        return self.plane(planes.flatten(0, 1)).unflatten(0, planes.shape[:2]).movedim(1, 2)

    def _along_lines(self, x: Tensor) -> Tensor:
        return self.line(x.flatten(-2)).unflatten(-1, x.shape[-2:])


CONVOLUTIONS: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: Conv3d}


def convolution(
    ndim: int,
    inputs: int,
    outputs: int,
    size: int = 3,
    bias: bool = False,
    padding: Padding = "zeros",
    separable: bool = False,
) -> nn.Module:
    """Convolution over ``ndim`` (2 or 3) axes that keeps the image size; separable 3-wide in 3D."""
    if ndim not in CONVOLUTIONS:
        raise ValueError(f"ndim must be one of {sorted(CONVOLUTIONS)}, got {ndim}")
    if separable:
        if ndim != 3 or size != 3:
            raise ValueError(
                f"a separable convolution is 3 wide in 3 axes, got size {size} and ndim {ndim}"
            )
        return Separable(inputs, outputs, bias, padding)
    return CONVOLUTIONS[ndim](
        inputs, outputs, size, padding=size // 2, bias=bias, padding_mode=padding
    )


def check_axes(x: Tensor, ndim: int) -> None:
    """Refuse what torch would take for an unbatched image of one axis more.

    Raises:
        ValueError: unless x is ``(batch, channels, *space)`` with ``ndim`` axes of space.
    """
    if x.ndim != ndim + 2:
        raise ValueError(
            f"a network with ndim = {ndim} takes (batch, channels, *space) with {ndim} axes of "
            f"space, got shape {tuple(x.shape)}"
        )


def zeroed(layer: nn.Module) -> nn.Module:
    """The same convolution with a result of zero, from which it can learn."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    if isinstance(layer, Separable):  # with both factors zero, neither would get a gradient
        nn.init.dirac_(layer.line.weight)
    return layer


class ResidualBlock(nn.Module):
    """Twice ReLU and a 3-wide convolution, beside a shortcut; pre-activation as in 1603.05027."""

    def __init__(
        self,
        ndim: int,
        inputs: int,
        features: int,
        padding: Padding = "zeros",
        separable: bool = False,
    ) -> None:
        super().__init__()
        wide = partial(convolution, ndim, padding=padding, separable=separable)
        self.first = wide(inputs, features)
        self.second = wide(features, features)
        self.shortcut = (
            nn.Identity()
            if inputs == features
            else convolution(ndim, inputs, features, size=1, bias=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Real ``(batch, inputs, *space)`` to ``(batch, features, *space)``."""
        hidden = self.first(x.relu()).relu_()
        return self.second(hidden).add_(self.shortcut(x))


class ResNet(nn.Module):
    """Pre-activation residual network of the proximal-gradient step (arXiv 2207.08393).

    Args:
        channels: input and output channels, two for each map set.
        features: width.
        blocks: residual blocks, two convolutions each.
        ndim: number of axes convolved, 2 or 3.
        padding: ``"zeros"``, or ``"reflect"`` as published (slower, and a copy more).
        separable: in 3D, every convolution a :class:`Separable` one.

    Attributes:
        reach: how many pixels away, along each axis, it still looks.
    """

    def __init__(
        self,
        channels: int = 2,
        features: int = 100,
        blocks: int = 2,
        ndim: int = 2,
        padding: Padding = "zeros",
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.ndim = ndim
        self.reach = 2 * blocks + 1
        widths = [channels] + [features] * blocks
        self.blocks = nn.Sequential(
            *(ResidualBlock(ndim, inputs, features, padding, separable) for inputs in widths[:-1])
        )
        last = convolution(ndim, features, channels, 3, True, padding, separable)
        self.last = zeroed(last)

    def forward(self, x: Tensor) -> Tensor:
        """Real ``(batch, channels, *space)`` to the same shape."""
        check_axes(x, self.ndim)
        return x + self.last(self.blocks(x))


class ConvNet(nn.Module):
    """Plain residual convolutions of the MoDL step, ``x + five convolutions`` (arXiv 1712.02862).

    Args:
        channels: input and output channels, two for each map set.
        features: width.
        layers: number of convolutions, at least two.
        ndim: number of axes convolved, 2 or 3.
        padding: ``"zeros"`` or ``"reflect"``.
        separable: in 3D, every convolution a :class:`Separable` one.

    Attributes:
        reach: how many pixels away, along each axis, it still looks.
    """

    def __init__(
        self,
        channels: int = 2,
        features: int = 70,
        layers: int = 5,
        ndim: int = 2,
        padding: Padding = "zeros",
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.ndim = ndim
        self.reach = layers
        wide = partial(convolution, ndim, padding=padding, separable=separable)
        widths = [channels] + [features] * (layers - 1) + [channels]
        stack: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            stack += [wide(inputs, outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*stack[:-2], zeroed(stack[-2]))

    def forward(self, x: Tensor) -> Tensor:
        """Real ``(batch, channels, *space)`` to the same shape."""
        check_axes(x, self.ndim)
        return x + self.layers(x)
