"""VarNet of fastMRI, or a network that has its attributes."""

from __future__ import annotations

from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gleam.adapters.base import Adapter, check_plane, from_pairs, has, pairs
from gleam.batch import Batch
from physics.fourier import ifft

State = tuple[Tensor, Tensor]


class FastMRIVarNet(Adapter):
    """The end-to-end variational network of fastMRI (arXiv 2004.06688), a cascade a step.

    The state is k-space and coil maps, real ``(batch, coils, y, x, 2)``. The image is the
    root-sum-of-squares of the coil images, as fastMRI's: real ``(batch, 1, y, x)``. Train it with a
    loss of magnitudes, :func:`gleam.losses.ssim_loss` or :func:`gleam.losses.magnitude_l1`. The
    coil maps of the batch are not used: ``sens_net`` estimates them, once a batch.

    ``sens_net`` learns as part of the first module: end to end from the one loss there is; in
    greedy training from the first module's loss only, while later modules take the maps that were
    computed in the same training step before that module's update. Its activations, of a U-Net on
    every coil, are part of the first module's, and with 8 channels and 8 coils as many as those of
    three or four cascades: ``coils_at_a_time`` stores none of them.

    Args:
        network: has ``sens_net(kspace, mask)`` and ``cascades``, each
            ``cascade(kspace, measured, mask, maps)``.
        num_low_frequencies: columns in the fully sampled centre, for ``sens_net``; by default it
            finds them out from the mask, of which it reads one row.
        coils_at_a_time: let ``sens_net.norm_unet`` see so many coil images at a time and compute
            their activations again in the backward pass: in the memory of so many, for one more
            forward pass of it, and equal up to float tolerance. All at once if None.
    """

    looks_for: ClassVar[str] = "VarNet of fastMRI (cascades, sens_net)"

    def __init__(
        self,
        network: nn.Module,
        num_low_frequencies: int | None = None,
        coils_at_a_time: int | None = None,
    ) -> None:
        cascades: Any = network.cascades
        super().__init__(network, cascades)
        self.num_low_frequencies = num_low_frequencies
        self.coils_at_a_time = coils_at_a_time

    @staticmethod
    def knows(network: nn.Module) -> bool:
        """Whether it has cascades and a network for coil maps."""
        return has(network, "cascades", "sens_net")

    def start(self, batch: Batch) -> State:
        """The measured k-space and the coil maps.

        Raises:
            ValueError: if images are not 2D, or the mask is not one of columns and
                ``num_low_frequencies`` is not given.
        """
        check_plane(batch, "VarNet")
        kspace, mask = _measured(batch)
        columns = mask.shape[2] == 1 and mask.shape[3] > 1
        reads_mask = getattr(self.network.sens_net, "mask_center", False)
        if reads_mask and self.num_low_frequencies is None and not columns:
            raise ValueError(
                "VarNet finds the calibration region of masks of columns, (batch, 1, 1, x), and "
                f"this mask is {tuple(batch.mask.shape)}; say how many columns it has: "
                "gleam.wrap(network, num_low_frequencies=16)"
            )
        return kspace, self._maps(kspace, mask)

    def _maps(self, kspace: Tensor, mask: Tensor) -> Tensor:
        estimate = self.network.sens_net
        known = () if self.num_low_frequencies is None else (self.num_low_frequencies,)
        if self.coils_at_a_time is None:
            return estimate(kspace, mask, *known)
        unet, count = estimate.norm_unet, self.coils_at_a_time
        all_at_once = unet.forward

        def in_groups(images: Tensor) -> Tensor:
            groups = images.split(count)
            return torch.cat([checkpoint(all_at_once, g, use_reentrant=False) for g in groups])

        with patch.object(unet, "forward", in_groups):
            return estimate(kspace, mask, *known)

    def step(self, index: int, state: State, batch: Batch) -> State:
        """One cascade."""
        kspace, maps = state
        return self.steps[index](kspace, *_measured(batch), maps), maps

    def image(self, state: State, batch: Batch) -> Tensor:
        """Root-sum-of-squares magnitude, real ``(batch, 1, y, x)``."""
        coils = ifft(from_pairs(state[0], -1))
        # Squares, roots and squares again: so fastMRI computes it, to the last bit.
        magnitudes = pairs(coils, -1).square().sum(-1).sqrt()
        return magnitudes.square().sum(1, keepdim=True).sqrt()


def _measured(batch: Batch) -> tuple[Tensor, Tensor]:
    """K-space with zeros where the mask leaves it out, and the mask, as fastMRI has them."""
    return pairs(batch.kspace * batch.mask, -1), batch.mask.bool()[..., None]
