"""Other packages' networks on the seam that strategies train.

network = gleam.wrap(varnet)
strategy = Greedy(network, ssim_loss, partial(Adam, lr=1e-3), modules=12)
strategy.train_step(batch)
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from gleam.adapters.base import Adapter
from gleam.adapters.deepinv import DeepinvUnfolded, DeepinvVarNet
from gleam.adapters.fastmri import FastMRIVarNet
from gleam.adapters.sequence import StepSequence
from gleam.strategies.modules import Network

ADAPTERS: tuple[type[Adapter], ...] = (FastMRIVarNet, DeepinvVarNet, DeepinvUnfolded, StepSequence)
SEAM = ("steps", "start", "step", "image")


def wrap(network: nn.Module, **options: Any) -> Network:
    """Make somebody else's network one that strategies train and ``network(batch)`` runs.

    The weights stay where they are: the network given learns, and is saved as before. Strategy
    ``invertible`` is for networks with an inverse, which no adapter has, and ``greedy-parallel``
    for those with all weights in their steps, which a network for coil maps is not.

    Args:
        network: a VarNet of fastMRI, an unfolded network or VarNet of deepinv, all known by their
            attributes and not by their class; an ``nn.Sequential`` or ``nn.ModuleList`` of steps,
            with functions ``start`` and ``image``; or one that has all a strategy needs.
        options: of the adapter, see :class:`FastMRIVarNet`, :class:`DeepinvUnfolded`,
            :class:`DeepinvVarNet` and :class:`StepSequence`.

    Returns:
        The adapter; a network that needs none as it is.

    Raises:
        TypeError: if no adapter knows the network; says what each looks for.
        ValueError: if one does, but the network cannot be taken apart into steps.
    """
    for adapter in ADAPTERS:
        if adapter.knows(network):
            return adapter(network, **options)
    if all(hasattr(network, part) for part in SEAM):
        return cast(Network, network)
    known = "; ".join(adapter.looks_for for adapter in ADAPTERS)
    missing = ", ".join(part for part in SEAM if not hasattr(network, part))
    raise TypeError(
        f"no adapter knows {type(network).__name__}. Known are: {known}. Any other network needs "
        "steps (an nn.ModuleList), start(batch), step(index, state, batch) and image(state, "
        f"batch), of which this one lacks {missing}"
    )


__all__ = [
    "ADAPTERS",
    "Adapter",
    "DeepinvUnfolded",
    "DeepinvVarNet",
    "FastMRIVarNet",
    "StepSequence",
    "wrap",
]
