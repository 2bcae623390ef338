"""The command ``gleam plan``: what every strategy would need, before any run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gleam.planning import Plan, Row

console = Console(soft_wrap=True, markup=False)

SHORT = {
    "parameters": "params",
    "gradients": "grads",
    "optimizer": "optim",
    "activations": "activ",
}
"""Heads of columns that would not fit 80 characters beside one another."""


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file with the settings of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, such as network.steps=24 device=cuda."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Memory that must suffice, such as 24GiB.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Size to plan for, such as 320,320,256; else the data's.")
    ] = None,
    coils: Annotated[
        int | None, typer.Option(min=1, help="Receive coils to plan for; else the data's.")
    ] = None,
) -> None:
    """Predict memory and time of a training step under every strategy, without running one.

    Nothing is allocated and no GPU is needed; with --shape and --coils no data either. Plans for
    the device of the configuration: device=cuda also where there is none.
    """
    from gleam.config import load_config, parse_overrides
    from gleam.planning import plan as plan_strategies

    changes = parse_overrides(overrides or [])
    size = None if shape is None else parse_shape(shape)
    if size is not None:
        changes["data.size"] = list(size)  # else simulated data might not fit data.items
    checked = load_config(config, **changes)
    print_plan(plan_strategies(checked, shape=size, coils=coils, budget=budget), console)


def parse_shape(text: str) -> tuple[int, ...]:
    """Sizes from a word such as "320,320,256".

    Raises:
        ConfigError: if it is anything else.
    """
    from gleam.config import ConfigError

    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ConfigError(f"--shape must be whole numbers such as 320,320,256, got {text!r}")
    return tuple(map(int, words))


def print_plan(plan: Plan, console: Console) -> None:
    """Print the table, what is recommended, and what the prediction leaves out."""
    from gleam.planning import format_bytes

    sizes = plan.shape
    console.print(
        f"{sizes.images} x ({', '.join(map(str, sizes.space))}), {sizes.coils} coils, "
        f"{sizes.maps} set{'s' * (sizes.maps > 1)} of maps, on {plan.device}",
        highlight=False,
    )
    console.print(_table(plan))
    if plan.budget is not None:
        budget = f"{format_bytes(plan.budget)} with {plan.margin:.0%} to spare"
        if plan.recommended is None:
            smallest = min(plan.rows, key=lambda row: row.bytes)
            advice = f"nothing fits {budget}; {smallest.named} needs least"
        else:
            advice = f"fastest that fits {budget}: {plan.recommended.named}"
        console.print(advice, highlight=False)
        if plan.deepest is not None:
            console.print(f"deepest that fits: {_deep(plan.deepest)}", highlight=False)
    for note in plan.notes:
        console.print(f"- {note}", highlight=False)


def _table(plan: Plan) -> Table:
    unit = "GiB" if max(row.bytes for row in plan.rows) >= 2**30 else "MiB"
    title = f"Peak memory [{unit}] and time (of backprop: 1) of a training step"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("strategy")
    heads = ["modules", "peak", *(SHORT.get(part, part) for part in plan.rows[0].parts), "time"]
    for head in heads if plan.budget is None else [*heads, "fits", "deepest"]:
        table.add_column(head, justify="right")
    for row in plan.rows:
        sizes = (_size(size, unit) for size in (row.bytes, *row.parts.values()))
        cells = [row.strategy, str(row.modules), *sizes, f"{row.time:.2f}"]
        if plan.budget is not None:
            cells += [
                "yes" if row.fits else "no",
                "any" if row.deepest is None else f"{row.deepest}",
            ]
        table.add_row(*cells)
    return table


def _size(size: int, unit: str) -> str:
    value = size / (2**30 if unit == "GiB" else 2**20)
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _deep(row: Row) -> str:
    depth = "any number of steps" if row.deepest is None else f"{row.deepest} steps"
    if row.strategy != "greedy":
        return f"{depth}, {row.strategy}"
    return f"{depth}, greedy in modules of {row.length}"
