"""The configuration of a run: every setting, its type, its range and its default."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from gleam.data_config import Count, DataConfig, Positive, Section
from gleam.network_config import NetworkConfig
from gleam.strategy_config import GREEDY, OPTIONS, RayConfig, StrategyConfig

UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and what must hold."""


class TrainingConfig(Section):
    """Optimisation."""

    iterations: Count = 1000
    batch_size: Count = 1
    accumulate: Count = 1
    """Batches over which each update averages its gradient."""
    loss: Literal["l1", "l2", "ssim"] = "l1"
    learning_rate: Positive = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate: constant, or a short warm-up and a cosine to zero."""
    clip: Positive | None = None
    """Largest gradient norm of a module."""
    validate_every: Count = 100
    save_every: Count = 100
    patience: Count | None = None
    """Stop after so many validations without a better PSNR."""


class Config(Section):
    """A whole run."""

    out: Path = Path("runs/gleam")
    """Folder of the run."""
    seed: Annotated[int, Field(ge=0)] = 1000
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", or "auto": CUDA if there is one."""
    grown_from: Path | None = None
    """Checkpoint that the frozen steps (strategy.frozen) come from; set by gleam grow."""
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    strategy: StrategyConfig = StrategyConfig()
    ray: RayConfig = RayConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _modules_fit(self) -> Config:
        self._options_fit()
        modules, steps, frozen = self.modules, self.trained_steps, self.strategy.frozen
        if steps % modules:
            fitting = [n for n in range(1, steps + 1) if steps % n == 0]
            less = f" less strategy.frozen = {frozen}" if frozen else ""
            raise ValueError(
                f"strategy.modules = {modules} must divide network.steps = "
                f"{self.network.steps}{less}: choose from {fitting}"
            )
        replicas, training = self.strategy.replicas, self.training
        if training.accumulate % replicas and training.batch_size % replicas:
            raise ValueError(
                f"strategy.replicas = {replicas} must divide training.accumulate = "
                f"{training.accumulate} or training.batch_size = {training.batch_size}"
            )
        if self.network.shared and (modules > 1 or frozen):
            raise ValueError(
                "greedy modules cannot share weights: set network.shared to false "
                "or strategy.modules to 1, and freeze no steps"
            )
        return self

    def _options_fit(self) -> None:
        strategy, network = self.strategy, self.network
        if strategy.name not in GREEDY and self.modules > 1:
            raise ValueError(f"{strategy.name} trains one module, got {self.modules}")
        for key, name in OPTIONS.items():
            default = StrategyConfig.model_fields[key].default
            if getattr(strategy, key) != default and strategy.name != name:
                raise ValueError(f"strategy.{key} is for {name}, but strategy is {strategy.name}")
        if self.trained_steps < 1:
            raise ValueError(
                f"strategy.frozen = {strategy.frozen} leaves nothing to train of network.steps = "
                f"{network.steps}"
            )
        if bool(strategy.frozen) != (self.grown_from is not None):
            raise ValueError(
                "strategy.frozen says how many steps stay as they are in the checkpoint "
                "grown_from, so that both are given or neither; gleam grow gives both"
            )
        if strategy.name == "auto" and strategy.budget is None:
            raise ValueError("strategy auto needs strategy.budget, such as 24GiB")
        if strategy.budget is not None:
            parse_bytes(strategy.budget)  # refuses what is no size
        alone = strategy.name in GREEDY and self.modules == self.trained_steps > 1
        if network.hidden and alone and not strategy.lookahead:
            raise ValueError(
                "network.hidden channels are read by the next step only, so that in modules of one "
                "step they learn nothing: set strategy.lookahead to 1 or more, or fewer modules"
            )
        if strategy.name == "invertible" and network.regularizer == "cnn":
            raise ValueError(
                "strategy invertible recomputes the input of every step from its output, which a "
                "plain CNN does not allow: set network.regularizer to residual or coupling"
            )
        if network.convolution == "separable":
            self._convolution_fits()

    def _convolution_fits(self) -> None:
        if self.data.ndim == 2:
            raise ValueError(
                "network.convolution = separable takes t or z apart from (y, x): set data.items to "
                f"volumes or cines, got {self.data.items}"
            )
        if self.network.regularizer != "cnn":
            raise ValueError(
                f"the regularizer {self.network.regularizer} has full convolutions only: set "
                "network.convolution to full"
            )

    @property
    def trained_steps(self) -> int:
        """Steps of the network that are not frozen."""
        return self.network.steps - self.strategy.frozen

    @property
    def modules(self) -> int:
        """Number of modules, with the default filled in."""
        default = self.trained_steps if self.strategy.name in GREEDY else 1
        return self.strategy.modules or default


def load_config(source: str | Path | Mapping[str, Any] | Config, **overrides: Any) -> Config:
    """Read and check a configuration.

    Args:
        source: a YAML file, a mapping or a Config.
        overrides: top-level settings, nested mappings (merged), or dotted keys such as
            ``{"network.steps": 4}``.

    Returns:
        The checked configuration with all defaults filled in.

    Raises:
        ConfigError: names the key, what must hold and, for an unknown key, the nearest known one.

    Example:
        >>> config = load_config({"network": {"steps": 12}}, strategy="greedy", seed=7)
        >>> config.network.steps, config.strategy.name, config.modules, config.seed
        (12, 'greedy', 12, 7)
        >>> load_config({"network": {"step": "modle"}})
        Traceback (most recent call last):
        gleam.config.ConfigError: network.step: Input should be 'pgd' or 'modl', got 'modle'
    """
    if isinstance(source, Config):
        values = source.model_dump()
    elif isinstance(source, Mapping):
        values = dict(source)
    else:
        values = _read_yaml(Path(source))
    for key, value in overrides.items():
        values = _merge(values, _nest(key, value))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from None


def dump_config(config: Config) -> dict[str, Any]:
    """Plain values (for YAML, JSON or a checkpoint) from which :func:`load_config` reads back."""
    return config.model_dump(mode="json")


def parse_bytes(text: str) -> int:
    """Bytes from a number with the unit GiB, MiB, GB or MB, such as "24GiB".

    Raises:
        ConfigError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    size = int(float(match[1]) * UNITS.get(match[2], 0)) if match else 0
    if not size:
        raise ConfigError(
            f"memory must be a positive number with a unit of {', '.join(UNITS)}, such as 24GiB, "
            f"got {text!r}"
        )
    return size


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """Parse ``key=value`` words of a command line; values are YAML.

    Raises:
        ConfigError: if a word has no ``=``, or its value is not YAML.

    Example:
        >>> parse_overrides(["network.steps=4", "strategy=greedy"])
        {'network.steps': 4, 'strategy': 'greedy'}
    """
    overrides = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise ConfigError(f"expected key=value such as network.steps=4, got {pair!r}")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{key}: {value!r} is not valid YAML: {error}") from None
    return overrides


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no such configuration file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold keys and values, got {type(values).__name__}")
    return values


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in other.items():
        old = merged.get(key)
        if key == "strategy" and isinstance(old, str):
            old = {"name": old}
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merge(old, value)
        merged[key] = value
    return merged


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        # Where a setting has several types, pydantic adds the one it tried, such as list[int].
        parts = [str(part) for part in item["loc"]]
        key = ".".join(part for part in parts if part.isidentifier() or part.isdigit())
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] != "value_error":  # which names what it got itself
            message = f"{message}, got {item['input']!r}"
        return f"{key}: {message}" if key else message
    known = _keys(item["loc"][:-1])
    near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"{key}: unknown key; {hint}"


def _keys(location: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location:
        section = section.model_fields[part].annotation  # type: ignore[assignment]
    return list(section.model_fields)
