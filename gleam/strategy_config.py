"""The settings of a strategy: how the network is trained, and where."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gleam.data_config import Count, Positive, Section

PARALLEL = ("workers", "replicas", "queue", "timeout", "timeline")
OPTIONS = {
    "lookahead": "greedy",
    "frozen": "greedy",
    "checkpoint_every": "invertible",
    "budget": "auto",
    **dict.fromkeys(PARALLEL, "greedy-parallel"),
}
"""Settings that only one strategy has."""
GREEDY = ("greedy", "greedy-parallel")


class StrategyConfig(Section):
    """How the network is trained."""

    name: Literal[
        "auto", "backprop", "checkpoint", "invertible", "offload", "greedy", "greedy-parallel"
    ] = "greedy"
    """auto: the fastest whose planned memory fits the budget."""
    modules: Count | None = None
    """Modules of equal length; for greedy one for each step if none."""
    lookahead: Annotated[int, Field(ge=0)] = 0
    """greedy: a module's loss adds that after so many further steps, which it cannot change."""
    frozen: Annotated[int, Field(ge=0)] = 0
    """greedy: so many first steps stay as they are in the checkpoint ``grown_from``."""
    checkpoint_every: Count | None = None
    """invertible: keep the state after every so many steps; 4 if none."""
    budget: str | None = None
    """auto: memory, such as 24GiB."""
    workers: Count | None = None
    """greedy-parallel: stages of the pipeline; as many as devices and modules allow if none."""
    replicas: Count = 1
    """greedy-parallel: workers in each stage, which divide the images of an iteration."""
    queue: Count = 2
    """greedy-parallel: batches that may be with a worker or wait for it."""
    timeout: Positive = 600.0
    """greedy-parallel: seconds without a result after which a worker counts as hung."""
    timeline: bool = False
    """greedy-parallel: write timeline.json, for chrome://tracing or ui.perfetto.dev."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class RayConfig(Section):
    """Where greedy-parallel finds its workers."""

    address: str | None = None
    """Of a Ray cluster, such as auto; a Ray of its own on this machine if none."""
    resources: dict[str, Positive] = Field(default_factory=dict)
    """What Ray is to reserve for each worker, by the names given to ray start --resources."""
    transport: Literal["nccl", "nixl"] | None = None
    """How Ray Direct Transport moves states from GPU to GPU; through the host's memory if none."""
