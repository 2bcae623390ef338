"""What every strategy would cost on a problem, predicted before the run and without its memory.

A real training step runs on tensors without values (:mod:`gleam.plan_trace`) for networks of a few
steps and modules; memory and work grow linearly with both from there, and so the rest follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from gleam.config import UNITS, Config, ConfigError, load_config, parse_bytes
from gleam.plan_estimate import Estimator, solver_iterations
from gleam.plan_shapes import BatchShape, batch_shape
from gleam.plan_trace import FIXED_POINT

MARGIN = 0.10
"""Share of the prediction kept free for what it leaves out."""
TIE = 1.10  # times that differ by less than the predictions' error are equally fast


@dataclass(frozen=True)
class Row:
    """One way to train the network, and what it takes.

    Attributes:
        strategy: its name.
        modules: of equal length.
        steps: of the network.
        bytes: predicted peak memory, without the margin.
        parts: what holds them at the peak: parameters, gradients, optimizer, inputs, activations.
        time: of a training step, relative to backprop.
        exact_gradient: whether all steps learn from the loss of the last.
        fits: whether the peak and the margin fit the budget; None without a budget.
        deepest: steps of the deepest network with modules of this length that fits, 0 if none
            does; None without a budget, or if memory does not grow with the steps.
        frozen: first steps of the network that are trained already.
    """

    strategy: str
    modules: int
    steps: int
    bytes: int
    parts: dict[str, int]
    time: float
    exact_gradient: bool
    fits: bool | None = None
    deepest: int | None = None
    frozen: int = 0

    @property
    def length(self) -> int:
        """Steps of a module."""
        return (self.steps - self.frozen) // self.modules

    @property
    def named(self) -> str:
        """Strategy and, of greedy, its modules in words."""
        if self.strategy != "greedy":
            return self.strategy
        counts = (self.modules, "module"), (self.length, "step")
        modules, steps = (f"{count} {what}{'s' * (count > 1)}" for count, what in counts)
        return f"greedy, {modules} of {steps}"


@dataclass(frozen=True)
class Plan:
    """The strategies compared.

    Attributes:
        rows: every strategy and number of modules.
        recommended: the fastest that fits, see :func:`recommend`; None if none fits.
        deepest: the row with the deepest network that fits; None without a budget.
        budget: in bytes, or None.
        margin: share of the prediction kept free.
        shape: of the batches planned for.
        device: "cpu" or "cuda".
        notes: what was left out, and why.
    """

    rows: tuple[Row, ...]
    recommended: Row | None
    deepest: Row | None
    budget: int | None
    margin: float
    shape: BatchShape
    device: str
    notes: tuple[str, ...]


def plan(
    config: Config,
    *,
    shape: Sequence[int] | None = None,
    coils: int | None = None,
    budget: int | str | None = None,
) -> Plan:
    """Predict peak memory and relative time of a training step under every strategy.

    Args:
        config: of the run; its strategy only says how greedy looks ahead and how often invertible
            keeps a state.
        shape: size of space to plan for; that of the data if None.
        coils: receive coils to plan for; those of the data if None.
        budget: memory that must suffice, bytes or such as "24GiB"; of the strategy if None.

    Returns:
        The plan; from the second training step on, when the optimizer has its state.

    Raises:
        ConfigError: if the shape or the budget cannot be used.
        DataError: if the first training scan is needed and cannot be read.
    """
    budget = config.strategy.budget if budget is None else budget
    limit = parse_bytes(budget) if isinstance(budget, str) else budget
    device = _device(config.device)
    sizes = batch_shape(config, shape, coils)
    estimator = Estimator(config, sizes, device)
    rows = [
        _row(estimator, name, config, modules, limit)
        for name, modules in _candidates(config, device)
    ]
    fitting = [row for row in rows if row.deepest != 0] if limit is not None else []
    return Plan(
        rows=tuple(rows),
        recommended=recommend(rows),
        deepest=max(fitting, key=_depth, default=None),
        budget=limit,
        margin=MARGIN,
        shape=sizes,
        device=device,
        notes=_notes(config, device),
    )


def _row(estimator: Estimator, name: str, config: Config, modules: int, limit: int | None) -> Row:
    steps, length = config.network.steps, config.trained_steps // modules
    found = estimator.estimate(name, length, modules)
    fits = deepest = None
    if limit is not None:
        fits = found.bytes * (1 + MARGIN) <= limit
        deepest = estimator.deepest(name, length, limit / (1 + MARGIN))
    parts = {part: round(size) for part, size in found.parts.items()}
    time = found.seconds / estimator.estimate("backprop", steps, 1).seconds
    exact = name != "greedy"
    frozen = config.strategy.frozen
    return Row(name, modules, steps, sum(parts.values()), parts, time, exact, fits, deepest, frozen)


def recommend(rows: Sequence[Row]) -> Row | None:
    """The fastest row that fits; of those about as fast, first the exact gradients.

    Strategies within 10 % of the smallest time count as equally fast. Of these, end-to-end
    gradients come before greedy ones, longer modules before shorter, and then the faster first.
    """
    fitting = [row for row in rows if row.fits is not False]
    if not fitting:
        return None
    fast = TIE * min(row.time for row in fitting)
    equal = [row for row in fitting if row.time <= fast]
    return min(equal, key=lambda row: (not row.exact_gradient, row.modules, row.time))


def choose_strategy(config: Config, resume: bool = False) -> Config:
    """The configuration with strategy auto replaced by the one recommended for its budget.

    Args:
        config: any; one whose strategy is not auto is returned as it is.
        resume: if there is a run in the folder of the configuration, take its strategy.

    Raises:
        ConfigError: if nothing fits; says how much would be needed.
        DataError: if the first training scan cannot be read.
    """
    if config.strategy.name != "auto":
        return config
    before = config.out / "config.yaml"
    if resume and before.exists():
        return load_config(config, strategy=load_config(before).strategy.model_dump())
    found = plan(config)
    chosen = found.recommended
    if chosen is None:
        smallest = min(found.rows, key=lambda row: row.bytes)
        raise ConfigError(
            f"strategy.budget = {config.strategy.budget} is too little for any strategy: the "
            f"smallest need is that of {smallest.named}, "
            f"{format_bytes(smallest.bytes * (1 + MARGIN))} with the margin of {MARGIN:.0%}; raise "
            "the budget, or lower network.features, data.slab or training.batch_size"
        )
    modules = chosen.modules if chosen.strategy == "greedy" else None
    return load_config(
        config, strategy={"name": chosen.strategy, "modules": modules, "budget": None}
    )


def format_bytes(size: float) -> str:
    """In GiB, or MiB below one."""
    unit = "GiB" if size >= UNITS["GiB"] else "MiB"
    return f"{size / UNITS[unit]:.2f} {unit}"


def _candidates(config: Config, device: str) -> Iterator[tuple[str, int]]:
    """Every strategy that this network can be trained with, and its numbers of modules."""
    steps, frozen = config.trained_steps, config.strategy.frozen
    if not frozen:
        yield "backprop", 1
        yield "checkpoint", 1
        if config.network.regularizer != "cnn":
            yield "invertible", 1
        if device == "cuda":
            yield "offload", 1
    if config.network.shared:
        return
    learning = config.strategy.lookahead or not config.network.hidden
    for modules in range(1 if frozen else 2, steps + 1):  # without frozen steps 1 is backprop
        if steps % modules == 0 and (modules < steps or learning):
            yield "greedy", modules


def _depth(row: Row) -> float:
    return math.inf if row.deepest is None else row.deepest


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device: must be cpu, cuda, cuda:N or auto, got {name}")
    return kind


def _notes(config: Config, device: str) -> tuple[str, ...]:
    notes = [
        f"Peak memory of tensors from the second training step on. Left out, and what the margin "
        f"of {MARGIN:.0%} is for: scratch memory inside operations, fragmentation and rounding of "
        "the allocator.",
        "Not in it either: Python and its libraries, or the CUDA context (about 0.5 GiB); scans "
        "that are loaded and cached on the host (data.cache); validation.",
    ]
    rates = "calibrated on a CPU" if device == "cpu" else "nominal for a CUDA card, not measured"
    notes.append(f"Times from counted operations and rates {rates}: a guide to 10 to 20 %.")
    if config.strategy.frozen:
        notes.append(
            f"The first {config.strategy.frozen} steps are frozen, which greedy alone knows: they "
            "take time and hold their weights. Times are relative to backprop of all steps."
        )
    if config.data.path is not None:
        notes.append("Sizes of the first training scan: the largest one may need more.")
    if config.network.regularizer != "cnn":
        notes.append(
            f"Times assume {solver_iterations(config)} iterations of conjugate gradients and "
            f"{FIXED_POINT} of the fixed point that inverts a residual regularizer; both stop at "
            "a tolerance."
        )
    if device == "cpu":
        notes.append("offload is backprop on a CPU, where activations are on the host anyway.")
    return tuple(notes)
