"""The only place where names in a configuration become objects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gleam.config import Config, ConfigError
from gleam.data import Loader, Scan, ScanSource, SimulatedSubject
from gleam.data.cache import Cache
from gleam.data.estimate import estimate_maps
from gleam.data.examples import stable_seed
from gleam.data.loader import DrawMask, mask_drawer
from gleam.data.sources import GIBIBYTE
from gleam.data.splits import scans_of_splits
from gleam.data_config import DataConfig, choices
from gleam.losses import LOSSES
from gleam.network_config import NetworkConfig
from gleam.strategies import STRATEGIES, Strategy
from gleam.strategy_config import OPTIONS
from models.complex import ComplexImages
from models.invertible import Coupling, InvertibleResidual
from models.resnet import ConvNet, ResNet
from models.unrolled import MoDLStep, ProximalGradientStep, UnrolledNetwork

POISSON_POOL = 256  # masks of each kind: a Poisson disc takes longer to draw than a training step
SPLITS = {"train": "train", "validate": "validate_on", "test": "test"}  # simulated: settings


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


def build_network(config: NetworkConfig, data: DataConfig) -> UnrolledNetwork:
    """An unrolled network for such data, weights drawn from torch's current random state."""

    def make_step() -> nn.Module:
        regularizer = _build_regularizer(config, data)
        if config.step == "pgd":
            return ProximalGradientStep(regularizer, config.step_size)
        return MoDLStep(regularizer, config.weight, config.cg_iterations)

    return UnrolledNetwork(make_step, config.steps, config.shared, config.hidden)


def _build_regularizer(config: NetworkConfig, data: DataConfig) -> nn.Module:
    channels = data.map_sets + config.hidden
    if config.regularizer != "cnn":
        invertible = {"residual": InvertibleResidual, "coupling": Coupling}[config.regularizer]
        return invertible(channels, config.features, ndim=data.ndim)
    cnn = (ResNet if config.step == "pgd" else ConvNet)(
        channels=2 * channels,
        features=config.features,
        ndim=data.ndim,
        padding=config.padding,
        separable=config.convolution == "separable",
    )
    return ComplexImages(cnn, config.mixed_precision)


def build_strategy(config: Config, network: UnrolledNetwork) -> Strategy:
    """The training strategy, with one optimizer and scheduler a module."""
    training, chosen = config.training, config.strategy
    own = {key: getattr(chosen, key) for key, name in OPTIONS.items() if name == chosen.name}
    if chosen.name == "greedy-parallel":
        own |= config.ray.model_dump()
        own["timeline"] = config.out / "timeline.json" if chosen.timeline else None
    return STRATEGIES[chosen.name](
        network,
        LOSSES[training.loss],
        partial(_adam, learning_rate=training.learning_rate, decay=training.weight_decay),
        partial(_cosine, iterations=training.iterations) if training.schedule == "cosine" else None,
        modules=config.modules,
        clip=training.clip,
        **own,
    )


def build_loaders(config: DataConfig, seed: int, frozen: int = 0) -> dict[str, Loader]:
    """The batches of every split there is: "train", "validate", "test"; slabs for training only.

    Args:
        config: of the data.
        seed: of simulated scans, and of the order, masks and slabs of training.
        frozen: steps that are trained already: behind them order, masks and slabs are others.

    Raises:
        DataError: if a scan is in two splits, or cannot be used and is not to be skipped.
    """
    bad: dict[Path, str] | None = {} if config.skip_bad else None
    if config.path is not None:
        splits = scans_of_splits(config.path, config.format, bad)
    else:
        splits = {split: _simulated(config, split, seed) for split in SPLITS}
    cache = Cache(round(config.cache * GIBIBYTE))
    loaders = {
        split: _build_loader(
            config,
            split,
            stable_seed(seed, "frozen", frozen) if frozen else seed,
            build_source(config, scans, cache),
        )
        for split, scans in splits.items()
    }
    for loader in loaders.values():
        loader.skipped |= set((bad or {}).values())
    return loaders


def _build_loader(config: DataConfig, split: str, seed: int, source: ScanSource) -> Loader:
    kinds = choices(config.mask.kind)
    loader = Loader(
        source,
        build_masks(config),
        seed,
        slab=config.slab if split == "train" else None,
        mask_pool=POISSON_POOL * len(kinds) if "poisson_disc" in kinds else None,
        skip_bad=config.skip_bad,
    )
    loader.skipped |= set(source.bad.values())
    return loader


def build_source(
    config: DataConfig, scans: Sequence[Scan], cache: Cache | None = None
) -> ScanSource:
    """The examples of some scans, kept in a cache of their own or a shared one."""
    return ScanSource(
        scans,
        partial(estimate_maps, method=config.map_method, crop=config.map_crop),
        items=config.items,
        sets=config.map_sets,
        calibration=config.map_calibration,
        cache=cache or Cache(round(config.cache * GIBIBYTE)),
        skip_bad=config.skip_bad,
    )


def _simulated(config: DataConfig, split: str, seed: int) -> list[Scan]:
    names = [f"{split}-{number:04d}" for number in range(getattr(config, SPLITS[split]))]
    return [_subject(config, name, seed) for name in names]


def _subject(config: DataConfig, name: str, seed: int) -> SimulatedSubject:
    def draw(setting: str, values: list[Any]) -> Any:
        return values[stable_seed(seed, name, setting) % len(values)]

    anatomy = draw("anatomy", choices(config.anatomy))
    options: dict[str, Any] = {} if anatomy == "heart" else {"contrast": config.contrast}
    coils = draw("coils", choices(config.coils))
    return SimulatedSubject(name, seed, anatomy, config.size, coils, snr=config.snr, **options)


def build_masks(config: DataConfig) -> DrawMask:
    """What draws the undersampling masks."""
    mask = config.mask
    return mask_drawer(
        choices(mask.kind),
        choices(mask.acceleration),
        mask.calibration,
        shutter=mask.shutter,
        partial_fourier=mask.partial_fourier,
    )


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
