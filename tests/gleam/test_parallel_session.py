"""Ray around parallel training: what it refuses, imports, opens and leaves behind."""

import importlib.util
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

from gleam.parallel.transport import to_arrays, to_tensors
from tests.gleam import tiny
from tests.gleam.ray_session import (
    ROOT,
    Batches,
    assert_gone,
    below,
    mixed_network,
    parallel,
    processes_below,
    serial,
    told,
)
from tests.helpers import normal


def test_more_workers_than_modules_are_refused():
    with pytest.raises(ValueError, match="4 modules can keep 1 to 4 workers busy, got 5"):
        parallel(workers=5)


@pytest.mark.parametrize("workers", [None, 2])
def test_workers_that_ray_has_no_room_for_are_refused(ray_session, workers: int | None):
    with (
        closing(parallel(workers=workers, resources={"nothing": 1})) as strategy,
        pytest.raises(ValueError, match=r"Ray found nothing: 0, enough for 0; set strategy\.work"),
    ):
        next(strategy.train(Batches(), 0, 1, bool))


def test_parameters_that_workers_could_not_agree_on_are_refused():
    network = mixed_network()
    network.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="all of whose parameters belong to its steps"):
        parallel(network)


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "ray" else find(name, *rest),
    )
    with pytest.raises(ImportError, match="pip install ray"):
        parallel()
    reports = [told(result) for result in serial().train(Batches(), 0, 2, bool)]
    assert len(reports) == 2


def test_what_ray_stores_is_shared_and_not_copied(ray_session):
    import ray

    tensor = normal(64, 1024)
    stored = ray.put(to_arrays({"state": [tensor]}))
    first, second = (ray.get(stored)["state"][0] for _ in "12")
    assert first.ctypes.data == second.ctypes.data != tensor.data_ptr()
    assert not first.flags.writeable
    assert tiny.equal(to_tensors([first]), [tensor])


def test_ray_is_imported_only_by_those_who_train_with_it():
    program = """
import sys
import gleam, gleam.strategies, gleam.parallel.worker, gleam.parallel.crew
from tests.gleam.ray_session import parallel
parallel()
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


LISTENER = """
import sys, time
from contextlib import closing
import torch
torch.set_num_threads(1)
from tests.gleam.ray_session import Batches, parallel
with closing(parallel(workers=1, replicas=2)) as strategy:
    strategy.train_step(*next(Batches(sizes=((1, 1),))(0, 1)))
    print("ready", flush=True)
    sys.stdin.readline()
"""


def listening(pids: list[int]) -> dict[str, str]:
    """Addresses, hexadecimal as the kernel writes them, on which processes accept connections."""
    sockets = {}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except OSError:  # closed meanwhile
                continue
            if target.startswith("socket:["):
                sockets[target[8:-1]] = Path(f"/proc/{pid}/cmdline").read_text()[:80]
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            # TCP that listens; UDP that anybody may send to.
            if state == ("0A" if "tcp" in table else "07") and rest[5] in sockets:
                found[address] = sockets[rest[5]]
    return found


def is_loopback(address: str) -> bool:
    host = address.partition(":")[0]
    if len(host) == 8:
        return host.endswith("7F")  # 127.x.y.z, its bytes in reverse
    loopback = ("0" * 24 + "01000000", "0" * 16 + "FFFF00000100007F")
    return host in loopback


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_nothing_listens_on_the_network_and_all_ends_with_the_run():
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        processes = below(process.pid)
        found = listening([process.pid, *processes_below(process.pid)])
        assert len(found) > 5  # Ray's own servers at least
        assert {address: name for address, name in found.items() if not is_loopback(address)} == {}
    finally:
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert_gone(processes, process.pid)
