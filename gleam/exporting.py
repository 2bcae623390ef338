"""Trained networks as programs that run without this library."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from gleam.batch import Batch, signal_level
from gleam.data.examples import ENCODED
from gleam.evaluation import open_network
from models.unrolled import UnrolledNetwork


class _Program(nn.Module):
    """A network with what :func:`gleam.reconstruct` does before and behind it."""

    def __init__(self, network: UnrolledNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        level = signal_level(Batch(kspace, mask, maps, axes=ENCODED).zero_filled)
        level = level.reshape(-1, *[1] * (kspace.ndim - 1))
        return self.network(Batch(kspace / level, mask, maps, axes=ENCODED)) * level


@torch.no_grad()
def export(
    checkpoint: str | Path, path: str | Path, space: Sequence[int], coils: int, slices: int = 1
) -> Path:
    """Write a trained network as a program of ``torch.export``, which runs without this library.

    It is used with torch alone: ``program = torch.export.load(path).module()``, then ``image =
    program(kspace, mask, maps)``. All shapes are fixed: k-space, complex64 ``(slices, coils,
    *space)``, in any units; mask, float32 ``(slices, 1, *space)``; coil maps, complex64 ``(slices,
    maps, coils, *space)``, of size 1 on t. The image, complex64 ``(slices, maps, *space)``, is that
    of :func:`gleam.reconstruct` up to rounding. Conjugate gradients make all their iterations,
    where the library stops once all slices are done; the image is the same.

    Args:
        checkpoint: of the network, or the name of one that ships, such as "general-2d".
        path: the file to write, by custom ``*.pt2``.
        space: ``(y, x)``, ``(z, y, x)`` or ``(t, y, x)``, as the network was trained.
        coils: how many.
        slices: images at a time.

    Returns:
        The path.

    Raises:
        CheckpointError: if the checkpoint cannot be used.
        ValueError: if its regularizers can be undone, or space has another number of axes than
            its images.
    """
    network, config = open_network(checkpoint, "cpu")
    data = config.data
    if config.network.regularizer != "cnn":
        raise ValueError(
            f"{checkpoint} has regularizers that can be undone (network.regularizer: "
            f"{config.network.regularizer}), whose steps look at values to decide what to compute, "
            "or solve in hundreds of iterations, and a program has neither; use gleam.load"
        )
    if len(space) != data.ndim:
        raise ValueError(f"the network is one of {data.ndim} axes of space, got {tuple(space)}")
    still = (1, *space[1:]) if data.items == "cines" else tuple(space)
    example = (
        torch.ones(slices, coils, *space, dtype=torch.complex64),
        torch.ones(slices, 1, *space),
        torch.ones(slices, data.map_sets, coils, *still, dtype=torch.complex64),
    )
    for parameter in network.parameters():  # torch warns when it saves those that are not
        parameter.data = parameter.data.contiguous()
    program = torch.export.export(_Program(network), example, strict=False)
    buffer = BytesIO()
    torch.export.save(program, buffer)
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
    return path
