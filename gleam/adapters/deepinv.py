"""Unfolded networks of deepinv: of its optimisation algorithms, MoDL among them, and VarNet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gleam.adapters.base import Adapter, check_plane, from_pairs, has, pairs
from gleam.batch import Batch

MakePhysics = Callable[..., Any]
"""Of ``mask`` (batch, 1, y, x), ``coil_maps`` (batch, coils, y, x) and ``device``, as keywords."""


class _Deepinv(Adapter):
    """What is common: measurements and images with real and imaginary parts along axis 1."""

    def __init__(
        self, network: nn.Module, steps: list[nn.Module], physics: MakePhysics | None
    ) -> None:
        super().__init__(network, steps)
        if physics is None and "deepinv" not in sys.modules:
            raise ValueError(
                f"{type(network).__name__} needs a physics, and deepinv, whose MultiCoilMRI it "
                "would be, was not imported; give gleam.wrap(network, physics=...) a function of "
                "mask, coil_maps and device"
            )
        self.make_physics: MakePhysics = physics or sys.modules["deepinv"].physics.MultiCoilMRI

    def physics(self, batch: Batch, maps: Tensor | None = None) -> Any:
        """The physics of a batch, its coil maps replaced by others if these are given."""
        if maps is None:
            if batch.maps.shape[1] > 1:
                raise ValueError(
                    f"deepinv takes one set of coil maps, got {batch.maps.shape[1]} "
                    "(data.map_sets: 1)"
                )
            maps = batch.maps[:, 0]
        mask = batch.mask.expand(-1, -1, *batch.kspace.shape[2:])
        return self.make_physics(mask=mask, coil_maps=maps, device=batch.kspace.device)

    @staticmethod
    def measured(batch: Batch) -> Tensor:
        """Real ``(batch, 2, coils, y, x)``, zero where the mask leaves it out."""
        check_plane(batch, "this adapter of deepinv")
        return pairs(batch.kspace * batch.mask, 1)


class DeepinvUnfolded(_Deepinv):
    """An algorithm of deepinv unfolded: ``BaseUnfold``, ``BaseOptim(unfold=True)`` or ``MoDL``.

    A step is one fixed-point iteration, the state deepinv's dictionary of iterates. The image is
    complex ``(batch, 1, y, x)``. Priors, data fidelities and parameters of which there is one for
    all iterations are shared by the steps; that trains end to end, or in one greedy module.

    Args:
        network: has ``fixed_point``, ``params_algo``, ``prior``, ``data_fidelity``,
            ``get_output``, ``max_iter``.
        physics: makes the physics of ``mask``, ``coil_maps`` and ``device``; deepinv's
            ``MultiCoilMRI`` by default.

    Raises:
        ValueError: if the network is not unfolded, or how many iterations it takes, or what they
            do, depends on more than the iterate: early stopping, backtracking, Anderson
            acceleration, deep equilibrium.
    """

    looks_for: ClassVar[str] = (
        "unfolded networks of deepinv, BaseUnfold, BaseOptim(unfold=True), MoDL (fixed_point, "
        "params_algo)"
    )
    unshare: ClassVar[str] = (
        "make the network with lists of one for each iteration, prior=[PnP(denoiser()) for _ in "
        "range(max_iter)], stepsize=[1.0] * max_iter, and with trainable_params that have such a "
        "list"
    )

    def __init__(self, network: nn.Module, physics: MakePhysics | None = None) -> None:
        model: Any = network
        if not isinstance(model.prior, nn.ModuleList):
            raise ValueError(
                f"{type(network).__name__} is not unfolded, so that nothing of it is trained; "
                "make it with unfold=True"
            )
        unfit = ("early_stop", "backtracking", "anderson_acceleration_config", "DEQ")
        for name in unfit:
            if getattr(model, name, None):
                raise ValueError(
                    f"{type(network).__name__} has {name}, with which an iteration is no step that "
                    "depends on the one before only; make it without"
                )
        super().__init__(network, [_parts(model, it) for it in range(model.max_iter)], physics)

    @staticmethod
    def knows(network: nn.Module) -> bool:
        """Whether it is an algorithm with its fixed-point iteration."""
        return has(network, "fixed_point", "params_algo", "get_output", "max_iter", "prior")

    def start(self, batch: Batch) -> dict[str, Any]:
        """deepinv's first iterate: as a rule the zero-filled image."""
        algorithm = self.network.fixed_point
        return algorithm.init_iterate_fn(
            self.measured(batch), self.physics(batch), None, cost_fn=algorithm.iterator.cost_fn
        )

    def step(self, index: int, state: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """One fixed-point iteration."""
        return self.network.fixed_point.single_iteration(
            state, index, self.measured(batch), self.physics(batch)
        )

    def image(self, state: dict[str, Any], batch: Batch) -> Tensor:
        """Complex ``(batch, 1, y, x)``."""
        return from_pairs(self.network.get_output(state), 1)[:, None]


class DeepinvVarNet(_Deepinv):
    """VarNet of deepinv, on images or (``mode="e2e-varnet"``) on k-space; a cascade a step.

    The state is image or k-space, real with two channels, and the coil maps of its
    ``sensitivity_model`` or None. The image is complex ``(batch, 1, y, x)``. The sensitivity model
    learns with the first module, as :class:`FastMRIVarNet`'s does.

    Args:
        network: has ``backbone_net``, a sequence of cascades, ``estimate_x`` and
            ``sensitivity_model``.
        physics: as of :class:`DeepinvUnfolded`.
    """

    looks_for: ClassVar[str] = "VarNet of deepinv (backbone_net, estimate_x, sensitivity_model)"
    unshare: ClassVar[str] = (
        "give every cascade a denoiser of its own: for block in network.backbone_net: "
        "block.denoiser = copy.deepcopy(block.denoiser)"
    )

    def __init__(self, network: nn.Module, physics: MakePhysics | None = None) -> None:
        backbone: Any = network.backbone_net
        super().__init__(network, [*backbone], physics)

    @staticmethod
    def knows(network: nn.Module) -> bool:
        """Whether it is a sequence of cascades."""
        return has(network, "backbone_net", "estimate_x", "sensitivity_model")

    def start(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The zero-filled image or the measured k-space, and estimated coil maps if any."""
        kspace, physics = self.measured(batch), self.physics(batch)
        first = physics.A_adjoint(kspace) if self.network.estimate_x else kspace
        estimate = self.network.sensitivity_model
        return first, None if estimate is None else estimate(kspace, physics)

    def step(
        self, index: int, state: tuple[Tensor, Tensor | None], batch: Batch
    ) -> tuple[Tensor, Tensor | None]:
        """One cascade."""
        current, maps = state
        physics = self.physics(batch, maps if index else None)  # the first one hands its maps on
        return self.steps[index]((current, physics, self.measured(batch), maps))[0], maps

    def image(self, state: tuple[Tensor, Tensor | None], batch: Batch) -> Tensor:
        """Complex ``(batch, 1, y, x)``."""
        current, maps = state
        if not self.network.estimate_x:
            everywhere = torch.ones_like(current[0, 0, 0])
            current = self.physics(batch, maps).A_adjoint(current, mask=everywhere)
        return from_pairs(current, 1)[:, None]


def _parts(model: Any, iteration: int) -> nn.Module:
    """What of an unfolded algorithm one iteration trains."""
    fidelity = model.update_data_fidelity_fn(iteration)
    chosen = model.update_params_fn(iteration).values()
    return nn.ModuleDict(
        {
            "prior": model.update_prior_fn(iteration),
            "data_fidelity": fidelity,
            "settings": nn.ParameterList(v for v in chosen if isinstance(v, nn.Parameter)),
        }
    )
