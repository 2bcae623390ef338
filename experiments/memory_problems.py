"""The problems of the memory benchmark: what is trained, and in which variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator

from gleam.config import Config, ConfigError, load_config
from gleam.data_config import Count, Section

SETTINGS = Path(__file__).parent / "configs" / "memory_vs_psnr.yaml"
OWN = ("curve", "trained_as")  # what is not a setting
FREE = ("network.", "strategy.", "training.learning_rate")


class Parallel(Section):
    """How a problem's greedy training is repeated on several devices."""

    variant: str
    """That is trained."""
    workers: Annotated[list[Count], Field(min_length=1)]
    """Numbers of workers, compared with serial training."""
    iterations: Count


class Problem(Section):
    """Settings of one problem of a preset."""

    config: dict[str, Any]
    """What all variants share; its seed is that of the test scans."""
    seeds: Annotated[list[int], Field(min_length=1)]
    """Of the runs of every variant."""
    repeats: Count
    """Rounds of the measurement of time."""
    goal: float
    """By how much greedy should beat end-to-end training at the same activation memory [dB]."""
    variants: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """By name: "curve" of the figure, and settings under dotted keys such as network.steps.
    "trained_as" names a variant that gives the same weights bit for bit, so that one is trained."""
    parallel: Parallel | None = None
    """Whether and how greedy training is compared with greedy-parallel."""

    @property
    def base(self) -> Config:
        """The configuration that the variants change."""
        return load_config(self.config)

    @property
    def curves(self) -> dict[str, str]:
        """The curve of every variant."""
        return {name: str(values["curve"]) for name, values in self.variants.items()}

    @property
    def trained_as(self) -> dict[str, str]:
        """For every variant the one whose training counts, mostly itself."""
        return {name: values.get("trained_as", name) for name, values in self.variants.items()}

    @property
    def configs(self) -> dict[str, Config]:
        """The configuration of every variant, but for seed and folder."""
        return {
            name: load_config(
                self.config, **{key: value for key, value in values.items() if key not in OWN}
            )
            for name, values in self.variants.items()
        }

    @field_validator("variants")
    @classmethod
    def _differ_where_they_may(cls, variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
        for name, values in variants.items():
            if "curve" not in values:
                raise ValueError(f"{name} must name its curve")
            if shared := [key for key in values if key not in OWN and not key.startswith(FREE)]:
                raise ValueError(
                    f"{name} changes {', '.join(shared)}, which must be the same for all "
                    f"variants; what may differ begins with {' or '.join(FREE)}"
                )
            target = variants.get(values.get("trained_as", name), {})
            mine, other = (
                {
                    k: v
                    for k, v in settings.items()
                    if not k.startswith("strategy.") and k not in OWN
                }
                for settings in (values, target)
            )
            if "trained_as" in values and ("trained_as" in target or mine != other):
                raise ValueError(
                    f"{name} can be trained as another variant only if that is trained itself and "
                    f"differs in the strategy alone, got {values['trained_as']}"
                )
        return variants


def read_problems(
    settings: Path, preset: str, names: Sequence[str] | None = None
) -> dict[str, Problem]:
    """The problems of a preset, or some of them.

    Raises:
        ConfigError: if there is no such preset or problem, or its settings are wrong.
    """
    presets = yaml.safe_load(settings.read_text(encoding="utf-8"))["presets"]
    if preset not in presets:
        raise ConfigError(f"{settings} has no preset {preset!r}; choose from {[*presets]}")
    known = presets[preset]
    if unknown := set(names or ()) - known.keys():
        raise ConfigError(f"no problem {sorted(unknown)} in {preset}; choose from {[*known]}")
    try:
        return {
            name: Problem.model_validate(values)
            for name, values in known.items()
            if not names or name in names
        }
    except ValidationError as error:
        raise ConfigError(f"{settings}: {error}") from None
