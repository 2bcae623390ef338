"""How near the CNNs come to this machine's matrix products, and where time goes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.peers.operators import make_problem, ours
from experiments.peers.timing import Contender, time_in_turn
from models.complex import ComplexImages
from models.resnet import ConvNet, ResNet

SIZE = 320
PRODUCT = 2048
CNNS: dict[str, tuple[Callable[..., torch.nn.Module], int]] = {
    "ConvNet, 32 features": (ConvNet, 32),
    "ConvNet, 64 features": (ConvNet, 64),
    "ResNet, 32 features": (ResNet, 32),
    "ResNet, 100 features": (ResNet, 100),
}


@torch.random.fork_rng()
def _contenders() -> tuple[dict[str, Contender], dict[str, int]]:
    """What is timed, and the number of its multiplications and additions."""
    matrix = torch.randn(PRODUCT, PRODUCT)
    contenders = {"product": Contender(partial(torch.matmul, matrix, matrix))}
    counts = {"product": 2 * PRODUCT**3}
    for name, (make, features) in CNNS.items():
        network = ComplexImages(make(2, features))
        image = torch.randn(1, 1, SIZE, SIZE, dtype=torch.complex64)
        products = sum(p.numel() for p in network.parameters() if p.ndim == 4) * SIZE**2
        contenders[f"{name}, inference"] = Contender(partial(_forward, network, image))
        counts[f"{name}, inference"] = 2 * products
        contenders[f"{name}, training"] = Contender(partial(_backward, network, image))
        counts[f"{name}, training"] = 6 * products
    return contenders, counts


def compare(rounds: int, threads: int) -> list[str]:
    """Rows of Markdown: rates of CNNs, and the operations of the normal operator."""
    contenders, counts = _contenders()
    times = time_in_turn(contenders, rounds)
    rates = {name: counts[name] / median(values) / 1e9 for name, values in times.items()}
    lines = [
        f"\n## CNNs on 320 x 320, beside a product of two matrices of {PRODUCT} x {PRODUCT}\n",
        "Counted are the multiplications and additions of the convolutions; a backward pass counts "
        "twice a forward one, which is a little more than it does: the input has no gradient.\n",
        "| | Gflop/s | of the product's |",
        "|---|---|---|",
    ]
    for name, rate in rates.items():
        lines.append(f"| {name} | {rate:.1f} | {rate / rates['product']:.2f} |")
        print(lines[-1], flush=True)
    return lines + _shares("2D", "1D") + _shares("2D", "2D")


@torch.no_grad()
def _forward(network: torch.nn.Module, image: torch.Tensor) -> None:
    network(image)


def _backward(network: torch.nn.Module, image: torch.Tensor) -> None:
    network(image).abs().sum().backward()


def _shares(kind: str, pattern: str) -> list[str]:
    """What the normal operator spends its time on, by torch's profiler."""
    encoding = ours(make_problem(kind, pattern))
    encoding.normal(encoding.image)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(20):
            encoding.normal(encoding.image)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    lines = [
        f"\nThe normal operator, {kind}, {pattern} mask:\n",
        "| operation | share |",
        "|---|---|",
    ]
    for event in events[:5]:
        lines.append(f"| `{event.key}` | {event.self_cpu_time_total / total:.2f} |")
    return lines
