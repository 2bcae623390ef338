"""The door between complex images and real networks."""

import torch
from torch import Tensor, nn


def to_channels(image: Tensor) -> Tensor:
    """View complex ``(batch, maps, *space)`` as real channels-last ``(batch, 2 maps, *space)``.

    Copies nothing for a single map set: real and imaginary parts already lie side by side.
    """
    pairs = torch.view_as_real(image.resolve_conj().movedim(1, -1).contiguous())
    return pairs.flatten(-2).movedim(-1, 1)


def to_complex(channels: Tensor) -> Tensor:
    """Inverse of :func:`to_channels`: real ``(batch, 2 maps, *space)`` to complex."""
    pairs = channels.movedim(1, -1).contiguous().unflatten(-1, (-1, 2))
    return torch.view_as_complex(pairs).movedim(-1, 1)


class ComplexImages(nn.Module):
    """Let a real network act on complex images.

    Args:
        network: real ``(batch, 2 maps, *space)`` to the same shape.
        mixed_precision: run the network, and nothing else, under bfloat16 autocast.
    """

    def __init__(self, network: nn.Module, mixed_precision: bool = False) -> None:
        super().__init__()
        self.network = network
        self.mixed_precision = mixed_precision

    @property
    def reach(self) -> int:
        """How many pixels away, along each axis, the network still looks."""
        return self.network.reach  # type: ignore[return-value]

    def forward(self, image: Tensor) -> Tensor:
        """Complex image ``(batch, maps, *space)`` to the same shape and dtype."""
        channels = to_channels(image)
        if not self.mixed_precision:
            return to_complex(self.network(channels))
        with torch.autocast(image.device.type, dtype=torch.bfloat16):
            output = self.network(channels)
        return to_complex(output.to(channels.dtype))
