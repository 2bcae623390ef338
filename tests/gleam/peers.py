"""Networks with the attributes and signatures of other packages' own, for where these are missing.

Each maker returns the real class's object instead if its package is installed and can be imported.
"""

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.peers.packages import imports
from physics.fourier import fft, ifft
from tests.helpers import seeded


def real(module: str) -> ModuleType:
    """A module of another package; skips the test if there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of their imports
        if not imports(module.partition(".")[0]):
            pytest.skip(f"{module} cannot be imported")
        return importlib.import_module(module)


def convolutions(features: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, features, 3, padding=1), nn.Tanh(), nn.Conv2d(features, 2, 3, padding=1)
    )


def multiply(a: Tensor, b: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(a) * torch.view_as_complex(b))


def conjugate(a: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(a).conj().resolve_conj())


def transform(function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    return torch.view_as_real(function(torch.view_as_complex(a.contiguous())))


class LastAxis(nn.Module):
    """A CNN on images (batch, 1, y, x, 2)."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.unet = convolutions(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.unet(x[:, 0].movedim(-1, 1)).movedim(1, -1)[:, None].contiguous()


class SensitivityModel(nn.Module):
    """As fastMRI's, but for the calibration columns: their number is the mask's, or given."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_center = True
        self.norm_unet = LastAxis(features=16)

    def forward(
        self, masked_kspace: Tensor, mask: Tensor, num_low_frequencies: int | None = None
    ) -> Tensor:
        columns = num_low_frequencies or int(mask[0, 0, 0, :, 0].sum()) // 2
        first = (masked_kspace.shape[-2] - columns) // 2
        centre = torch.zeros_like(masked_kspace)
        centre[..., first : first + columns, :] = masked_kspace[..., first : first + columns, :]
        maps = self.norm_unet(transform(ifft, centre).flatten(0, 1)[:, None])
        maps = maps[:, 0].unflatten(0, masked_kspace.shape[:2])
        return maps / maps.square().sum((1, -1), keepdim=True).sqrt()


class VarNetBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = LastAxis()
        self.dc_weight = nn.Parameter(torch.ones(1))

    def forward(
        self, current_kspace: Tensor, ref_kspace: Tensor, mask: Tensor, sens_maps: Tensor
    ) -> Tensor:
        consistency = torch.where(mask, current_kspace - ref_kspace, 0.0) * self.dc_weight
        image = multiply(transform(ifft, current_kspace), conjugate(sens_maps)).sum(1, True)
        model = transform(fft, multiply(self.model(image), sens_maps))
        return current_kspace - consistency - model


class VarNet(nn.Module):
    def __init__(self, num_cascades: int) -> None:
        super().__init__()
        self.sens_net = SensitivityModel()
        self.cascades = nn.ModuleList(VarNetBlock() for _ in range(num_cascades))

    def forward(
        self, masked_kspace: Tensor, mask: Tensor, num_low_frequencies: int | None = None
    ) -> Tensor:
        maps = self.sens_net(masked_kspace, mask, num_low_frequencies)
        kspace = masked_kspace.clone()
        for cascade in self.cascades:
            kspace = cascade(kspace, masked_kspace, mask, maps)
        return transform(ifft, kspace).square().sum(-1).sqrt().square().sum(1).sqrt()


def channels(x: Tensor) -> Tensor:
    return torch.view_as_real(x).movedim(-1, 1)


def complex_of(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.movedim(1, -1).contiguous())


class MultiCoilMRI(nn.Module):
    """Images (batch, 2, y, x) to k-space (batch, 2, coils, y, x); keeps what it was given last."""

    def __init__(self, mask: Tensor, coil_maps: Tensor, device: Any = "cpu") -> None:
        super().__init__()
        self.update(mask, coil_maps)

    def update(self, mask: Tensor | None = None, coil_maps: Tensor | None = None) -> None:
        if mask is not None:
            self.mask = mask.expand(-1, 2, -1, -1) if mask.ndim == 4 else mask.expand(1, 2, -1, -1)
        if coil_maps is not None:
            self.coil_maps = coil_maps

    def A(self, x: Tensor, mask: Any = None, coil_maps: Any = None) -> Tensor:
        self.update(mask, coil_maps)
        return self.mask[:, :, None] * channels(fft(self.coil_maps * complex_of(x)[:, None]))

    def A_adjoint(self, y: Tensor, mask: Any = None, coil_maps: Any = None) -> Tensor:
        self.update(mask, coil_maps)
        coils = ifft(complex_of(self.mask[:, :, None] * y))
        return channels((self.coil_maps.conj() * coils).sum(1))


class PGDIteration(nn.Module):
    cost_fn = None

    def forward(
        self, X: Any, fidelity: Any, cur_prior: Any, cur_params: Any, y: Tensor, physics: Any
    ) -> dict[str, Any]:
        x = X["est"][0]
        z = x - cur_params["stepsize"] * physics.A_adjoint(physics.A(x) - y)
        return {"est": (cur_prior(z), z), "cost": None}


class BaseUnfold(nn.Module):
    def __init__(self, prior: list[nn.Module], stepsize: list[float], max_iter: int) -> None:
        super().__init__()
        self.prior = nn.ModuleList(prior)
        self.data_fidelity = nn.ModuleList([nn.Identity()])
        self.max_iter = max_iter
        values = nn.ParameterList(nn.Parameter(torch.tensor(value)) for value in stepsize)
        self.params_algo = nn.ParameterDict({"stepsize": values, "beta": [1.0]})
        self.early_stop = self.backtracking = self.DEQ = False
        self.anderson_acceleration_config = None
        self.get_output = lambda X: X["est"][0]
        self.fixed_point = SimpleNamespace(
            iterator=PGDIteration(),
            init_iterate_fn=self.init_iterate_fn,
            single_iteration=self.single_iteration,
        )

    def update_params_fn(self, it: int) -> dict[str, Any]:
        return {k: v[it] if len(v) > 1 else v[0] for k, v in self.params_algo.items()}

    def update_prior_fn(self, it: int) -> nn.Module:
        return self.prior[it] if len(self.prior) > 1 else self.prior[0]

    def update_data_fidelity_fn(self, it: int) -> nn.Module:
        return self.data_fidelity[0]

    def init_iterate_fn(
        self, y: Tensor, physics: Any, init: Any = None, cost_fn: Any = None
    ) -> dict[str, Any]:
        return {"est": (physics.A_adjoint(y), physics.A_adjoint(y)), "cost": None}

    def single_iteration(self, X: Any, it: int, y: Tensor, physics: Any) -> dict[str, Any]:
        return self.fixed_point.iterator(
            X,
            self.update_data_fidelity_fn(it),
            self.update_prior_fn(it),
            self.update_params_fn(it),
            y,
            physics,
        )

    def forward(self, y: Tensor, physics: Any) -> Tensor:
        state = self.init_iterate_fn(y, physics)
        for it in range(self.max_iter):
            state = self.single_iteration(state, it, y, physics)
        return self.get_output(state)


class DeepinvBlock(nn.Module):
    def __init__(self, estimate_x: bool) -> None:
        super().__init__()
        self.denoiser = convolutions()
        self.estimate_x = estimate_x
        self.dc_weight = nn.Parameter(torch.ones(1))

    def forward(self, args_in: tuple[Any, ...]) -> tuple[Any, ...]:
        current, physics, y, maps = args_in
        mask = physics.mask
        missed = mask[:, :, None] * ((physics.A(current) if self.estimate_x else current) - y)
        if self.estimate_x:
            missed = physics.A_adjoint(missed, coil_maps=maps)
            learned = self.denoiser(current)
        else:
            image = physics.A_adjoint(current, mask=torch.ones_like(mask), coil_maps=maps)
            learned = physics.A(self.denoiser(image), mask=torch.ones_like(mask), coil_maps=maps)
        physics.update(mask=mask)
        return current - missed * self.dc_weight - learned, physics, y, maps


class Estimate(nn.Module):
    """A model of coil maps: those of the physics, turned by a learned phase and scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.tensor([0.9, 0.2]))

    def forward(self, y: Tensor, physics: Any) -> Tensor:
        return physics.coil_maps * torch.view_as_complex(self.turn)


class DeepinvVarNet(nn.Module):
    def __init__(self, blocks: int, mode: str, sensitivity_model: nn.Module | None) -> None:
        super().__init__()
        self.estimate_x = mode == "varnet"
        self.backbone_net = nn.Sequential(*(DeepinvBlock(self.estimate_x) for _ in range(blocks)))
        self.sensitivity_model = sensitivity_model

    def forward(self, y: Tensor, physics: Any) -> Tensor:
        estimate = self.sensitivity_model
        maps = None if estimate is None else estimate(y, physics)
        mask = physics.mask
        first = physics.A_adjoint(y) if self.estimate_x else y
        last = self.backbone_net((first, physics, y, maps))[0]
        if not self.estimate_x:
            last = physics.A_adjoint(last, mask=torch.ones(last.shape[-2:]))
        physics.update(mask=mask)
        return last


def varnet(package: str, cascades: int = 4) -> nn.Module:
    """fastMRI's VarNet."""
    with seeded():
        if package == "real":
            return real("fastmri.models.varnet").VarNet(cascades, 4, 1, 4, 1)
        return VarNet(cascades)


def physics_of(package: str) -> Any:
    return real("deepinv").physics.MultiCoilMRI if package == "real" else MultiCoilMRI


def unfolded(package: str, iterations: int = 4, priors: int = 4, sizes: int = 4) -> nn.Module:
    """deepinv's BaseUnfold: proximal gradient descent."""
    steps = [0.8] * sizes
    with seeded():
        if package != "real":
            return BaseUnfold([convolutions() for _ in range(priors)], steps, iterations)
        deepinv = real("deepinv")
        return deepinv.optim.PGD(
            data_fidelity=deepinv.optim.L2(),
            prior=[deepinv.optim.PnP(denoiser(deepinv)) for _ in range(priors)],
            stepsize=steps,
            sigma_denoiser=0.1,
            max_iter=iterations,
            trainable_params=["stepsize"],
            unfold=True,
        )


def denoiser(deepinv: Any) -> nn.Module:
    return deepinv.models.DnCNN(2, 2, depth=3, nf=4, pretrained=None)


def deepinv_varnet(package: str, mode: str = "varnet", maps: bool = False) -> nn.Module:
    """deepinv's VarNet, every cascade with a denoiser of its own."""
    with seeded():
        estimate = Estimate() if maps else None
        if package != "real":
            return DeepinvVarNet(4, mode, estimate)
        deepinv = real("deepinv")
        network = deepinv.models.VarNet(denoiser(deepinv), None, 4, mode)
        network.sensitivity_model = estimate  # deepinv 0.5.0 takes no module at first
        for block in network.backbone_net:
            block.denoiser = denoiser(deepinv)
        return network
