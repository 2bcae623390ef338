"""Time and memory of a training step under every strategy, and of the normal operator.

    python -m experiments.step_cost [--repeats 60] [--device cpu] [--threads 2]

All strategies run in one process, in turn, on the same data, so that whatever else the machine does
hits them alike; read the ratios, medians over rounds of the ratio within a round. Memory is the
peak of newly allocated tensors in one step: data, parameters and optimizer state exist before,
gradients are freed by every module's update. 2D, 128 x 128, 8 coils, 8 steps, 32 features, batch 1;
greedy has one step a module.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from experiments.provenance import RESULTS, as_markdown, provenance
from gleam.batch import Batch
from gleam.build import build_network, build_strategy
from gleam.config import Config, load_config
from gleam.memory import PeakMemory
from gleam.strategies import Strategy
from physics.fourier import fft, ifft
from physics.masks import random_columns
from physics.operators import Sense

STRATEGIES = ("backprop", "checkpoint", "greedy")


def make_batch(size: tuple[int, int], coils: int, device: str) -> Batch:
    """Random measurements of random images; costs do not depend on the values."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.complex64, generator=random)

    maps = draw(1, 1, coils, *size)
    maps = maps / maps.abs().square().sum(2, keepdim=True).sqrt()
    mask = random_columns(size, 4, 24, seed=0)[None, None]
    kspace = draw(1, coils, *size) * mask
    return Batch(kspace, mask, maps, draw(1, 1, *size)).normalised().to(device)


def make_strategy(config: Config, device: str) -> Strategy:
    """A strategy on a network with weights that depend on the configuration only."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = build_network(config.network, config.data).to(device)
    return build_strategy(config, network)


def measure_steps(step: str, repeats: int, device: str) -> list[str]:
    """Rows of Markdown for one kind of unrolled step."""
    batch = make_batch((128, 128), 8, device)
    config = load_config({"network": {"step": step, "steps": 8, "features": 32}})
    strategies = {
        name: make_strategy(load_config(config, strategy={"name": name, "modules": None}), device)
        for name in STRATEGIES
    }
    deep = load_config(config, network={"steps": 64}, strategy={"name": "greedy"})
    # A new Batch each time: the operator and the zero-filled image are part of a step's cost.
    runs = {
        name: lambda strategy=strategy: strategy.train_step(replace(batch))
        for name, strategy in strategies.items()
    }
    times = alternate(runs, repeats, device)
    strategies["greedy, 64 steps"] = make_strategy(deep, device)
    rows = []
    for name, strategy in strategies.items():
        peak = peak_memory(strategy, batch, device)
        cells = [f"{peak / 1e6:.2f}"]
        if name in times:
            ratios = [ratio(times, name, other) for other in ("backprop", "checkpoint")]
            cells = [f"{median(times[name]) * 1e3:.1f}", *(f"{r:.3f}" for r in ratios), *cells]
        else:
            cells = ["", "", "", *cells]
        rows.append(f"| {step} | {name} | " + " | ".join(cells) + " |")
    return rows


def ratio(times: Mapping[str, list[float]], name: str, other: str) -> float:
    """Median over rounds of how long one run took relative to another in the same round."""
    return median(a / b for a, b in zip(times[name], times[other], strict=True))


def alternate(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    device: str,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run in every round; the first two rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 2):
        for name, run in runs.items():
            start = clock()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            if number > 1:
                times[name].append(clock() - start)
    return times


def peak_memory(strategy: Strategy, batch: Batch, device: str) -> int:
    """Peak bytes of newly allocated tensors in a step, after one that makes optimizer state."""
    strategy.train_step(replace(batch))
    with PeakMemory(device) as peak:
        strategy.train_step(replace(batch))
    return peak.bytes


def measure_normal(repeats: int) -> list[str]:
    """Rows of Markdown: the normal operator against sigpy and the straightforward formula."""
    import sigpy
    from sigpy.mri.linop import Sense as SigpySense

    batch = make_batch((320, 320), 8, "cpu")
    image = batch.zero_filled
    operator = Sense(batch.maps, batch.mask)
    coils = batch.maps[:, 0]
    theirs = SigpySense(coils[0].numpy(), weights=batch.mask[0, 0].expand(320, 320).numpy()).N
    array = image[0, 0].numpy()

    def straightforward() -> Tensor:
        return (coils.conj() * ifft(fft(coils * image) * batch.mask)).sum(1, keepdim=True)

    runs: dict[str, Callable[[], object]] = {
        "this library": lambda: operator.normal(image),
        "shift, FFT, mask, FFT, shift in torch": straightforward,
        f"sigpy {sigpy.__version__}": lambda: theirs(array),
    }
    if not torch.allclose(operator.normal(image), straightforward(), atol=1e-5):
        raise RuntimeError("the operators compared do not agree")
    times = alternate(runs, 10 * repeats, "cpu")
    return [
        f"| {name} | {median(seconds) * 1e3:.2f} | {ratio(times, 'this library', name):.3f} |"
        for name, seconds in times.items()
    ]


def main() -> None:
    """Measure, print and write ``results/step_cost.md`` (``step_cost_cuda.md`` on CUDA)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    RESULTS.mkdir(exist_ok=True)
    lines = [
        "# Cost of a training step\n",
        (__doc__ or "").partition("[--threads 2]\n\n")[2],
        "| network | strategy | time [ms] | / backprop | / checkpoint | peak [MB] |",
        "|---|---|---|---|---|---|",
    ]
    for step in ("pgd", "modl"):
        lines += measure_steps(step, arguments.repeats, arguments.device)
    facts = provenance() | {"device": arguments.device}
    if arguments.device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    else:
        lines += ["\nNormal operator, 320 x 320, 8 coils, 1D mask:\n"]
        lines += ["| implementation | time [ms] | this library / it |", "|---|---|---|"]
        lines += measure_normal(arguments.repeats)
    text = "\n".join([*lines, "", as_markdown(facts)])
    suffix = "" if arguments.device == "cpu" else "_cuda"
    (RESULTS / f"step_cost{suffix}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
