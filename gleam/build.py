"""The only place where names in a configuration become objects."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gleam.config import Config, ConfigError, DataConfig, NetworkConfig
from gleam.data import Loader, PreparedScans, SimulatedBrains, Source
from gleam.data.loader import DrawMask, mask_drawer
from gleam.losses import LOSSES
from gleam.strategies import STRATEGIES, Strategy
from models.complex import ComplexImages
from models.resnet import ConvNet, ResNet
from models.unrolled import MoDLStep, ProximalGradientStep, UnrolledNetwork

POISSON_POOL = 256  # a Poisson disc takes longer to draw than a training step
SPLITS = {"train": "train", "validate": "validate_on", "test": "test"}


def build_device(name: str) -> torch.device:
    """The device a configuration asks for; "auto" is CUDA if there is one.

    Raises:
        ConfigError: if there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {error}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: must be cpu, cuda, cuda:N or auto, got {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {name} is not here, {torch.cuda.device_count()} CUDA devices are; "
            "use cpu or auto"
        )
    return device


def build_network(config: NetworkConfig, map_sets: int = 1) -> UnrolledNetwork:
    """An unrolled network with weights drawn from torch's current random state."""

    def make_step() -> nn.Module:
        cnn = (ResNet if config.step == "pgd" else ConvNet)(
            channels=2 * map_sets,
            features=config.features,
            ndim=config.ndim,
            padding=config.padding,
        )
        regularizer = ComplexImages(cnn, config.mixed_precision)
        if config.step == "pgd":
            return ProximalGradientStep(regularizer, config.step_size)
        return MoDLStep(regularizer, config.weight, config.cg_iterations)

    return UnrolledNetwork(make_step, config.steps, config.shared)


def build_strategy(config: Config, network: UnrolledNetwork) -> Strategy:
    """The training strategy, with one optimizer and scheduler a module."""
    training = config.training
    return STRATEGIES[config.strategy.name](
        network,
        LOSSES[training.loss],
        partial(_adam, learning_rate=training.learning_rate, decay=training.weight_decay),
        partial(_cosine, iterations=training.iterations) if training.schedule == "cosine" else None,
        modules=config.modules,
        clip=training.clip,
    )


def build_source(config: DataConfig, split: str, seed: int) -> Source:
    """The examples of a split: "train", "validate" or "test"."""
    calibration = config.mask.calibration
    if config.path is not None:
        return PreparedScans(config.path / split, calibration, config.map_sets)
    return SimulatedBrains(
        split,
        getattr(config, SPLITS[split]),
        seed,
        size=config.size,
        coils=config.coils,
        contrast=config.contrast,
        noise=config.noise,
        calibration=calibration,
        map_sets=config.map_sets,
    )


def build_loader(config: DataConfig, split: str, seed: int) -> Loader:
    """The batches of a split; slabs for training only."""
    slab = config.slab if split == "train" else None
    pool = POISSON_POOL if config.mask.kind == "poisson_disc" else None
    return Loader(build_source(config, split, seed), build_masks(config), seed, slab, pool)


def build_masks(config: DataConfig) -> DrawMask:
    """What draws the undersampling masks."""
    value = config.mask.acceleration
    accelerations = value if isinstance(value, list) else [value]
    return mask_drawer(config.mask.kind, accelerations, config.mask.calibration)


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float, decay: float) -> Adam:
    """Adam; weight decay spares step sizes and lambdas, which have no business near zero or one.

    Fused: one kernel for all parameters, where greedy calls the optimizer once a module.
    """
    owned = list(parameters)
    if not decay:
        return Adam(owned, lr=learning_rate, fused=True)
    weights, scalars = ([p for p in owned if bool(p.ndim) is wanted] for wanted in (True, False))
    groups = [{"params": weights, "weight_decay": decay}, {"params": scalars, "weight_decay": 0.0}]
    return Adam(groups, lr=learning_rate, fused=True)


def _cosine(optimizer: Optimizer, iterations: int) -> LambdaLR:
    """Linear warm-up over two hundredths of the iterations, at most 200, then a cosine to zero."""
    warm = max(1, min(200, iterations // 50))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        progress = min(1.0, (step - warm) / max(1, iterations - warm))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
