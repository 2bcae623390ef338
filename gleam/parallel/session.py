"""Starting and ending Ray: on this machine's loopback alone unless an address is configured."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

DIRECT = {"nccl": ("cuda", "cupy"), "nixl": ("cuda", "nixl"), "gloo": ("cpu", "torch")}
"""Where each of Ray's direct transports moves tensors, and the package that it needs."""


class MissingRayError(ImportError):
    """Ray is not installed; says how to install it."""


def start(address: str | None = None) -> bool:
    """Start Ray on this machine, or connect to a cluster; returns whether :func:`end` must end it.

    A connection that exists already is used as it is. A Ray of our own listens on 127.0.0.1 only,
    runs no dashboard and ends with this process, even if that is killed.

    Args:
        address: of a cluster, such as "auto" or "10.0.0.1:6379"; None for one of our own.

    Raises:
        ConnectionError: if there is no cluster at the address, or our own would not keep to the
            loopback interface.
    """
    if "ray" not in sys.modules and address is None:
        # Read when Ray is imported: makes 127.0.0.1 the address of this node on Linux too.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of what comes after the first
    os.environ.setdefault("RAY_worker_niceness", "0")  # or any other process would starve workers
    import ray

    if ray.is_initialized():
        return False
    with _signals_as_they_were():
        _start(address)
    return True


def _start(address: str | None) -> None:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConnectionError(f"no Ray cluster was found at {address}: {error}") from error
        return
    ray.init(address="local", include_dashboard=False, **options)
    node = ray.util.get_node_ip_address()
    if node != "127.0.0.1":
        ray.shutdown()
        raise ConnectionError(
            f"Ray would listen on {node}, open to the network, for it was imported before gleam "
            "could tell it not to: import ray later, set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, or "
            "configure an address"
        )


@contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """Undo what Ray does to SIGTERM, which the trainer handles."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # it was not set from Python
                signal.signal(number, handler)


def end() -> None:
    """End a Ray of our own, or the connection to a cluster."""
    import ray

    ray.shutdown()


def reserve(device: str, address: str | None, resources: Mapping[str, float]) -> dict[str, Any]:
    """What Ray is to reserve for each worker, as options of an actor."""
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1 if device == "cuda" else 0}
    if address is not None:
        options |= {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
    return {**options, "resources": dict(resources)}


def find_devices(
    reserved: Mapping[str, Any], workers: int | None, replicas: int, modules: int
) -> int:
    """The number of stages: what was asked for, or as many as modules and devices allow.

    Raises:
        ValueError: if Ray has too little of what is to be reserved for each worker.
    """
    import ray

    there = ray.cluster_resources()
    wanted = {"CPU": reserved["num_cpus"], "GPU": reserved["num_gpus"], **reserved["resources"]}
    counts = {name: int(there.get(name, 0) / need) for name, need in wanted.items() if need}
    most = min(counts.values(), default=int(there.get("CPU", 1)))
    if workers is None:
        workers = max(1, min(modules, most // replicas))
    if counts and workers * replicas > most:
        found = ", ".join(f"{name}: {there.get(name, 0):g}" for name in counts)
        raise ValueError(
            f"{workers} x {replicas} workers need more than there is: Ray found {found}, enough "
            f"for {most}; set strategy.workers and strategy.replicas accordingly, or add nodes"
        )
    return workers


def obstacle(transport: str, device: str) -> str | None:
    """Why Ray's direct transport cannot move states between devices of a type; None if it can.

    Args:
        transport: "nccl" or "nixl" between GPUs, "gloo" between CPUs.
        device: "cuda" or "cpu".
    """
    where, package = DIRECT[transport]
    if device != where:
        return f"{transport} moves tensors between devices of type {where}, not {device}"
    if importlib.util.find_spec(package) is None:
        return f"{transport} needs the package {package}, which is not installed"
    return None


def check_installed() -> None:
    """Without importing it.

    Raises:
        MissingRayError: if Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingRayError(
            "strategy greedy-parallel needs Ray, which is not installed: pip install ray, or use "
            "strategy greedy, which gives the same weights"
        )
