"""The README's cluster: two nodes started with "ray start", here on one machine."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gleam.config import dump_config
from tests.gleam import tiny
from tests.gleam.ray_session import ROOT, assert_same_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray"),
    pytest.mark.skipif(sys.platform != "linux", reason="Ray's clusters need Linux"),
]
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
}


def start(*words: str) -> subprocess.Popen[str]:
    """A node that offers one worker, and ends with the process that is returned."""
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--block", "--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
    return subprocess.Popen(
        [*command, "--resources", '{"gleam": 1}', *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(node: subprocess.Popen[str]) -> None:
    """Return once a node is part of the cluster."""
    assert node.stdout is not None
    said = []
    for line in node.stdout:
        said.append(line)
        if "Ray runtime started" in line:
            return
    pytest.fail(f"a node ended: {''.join(said)}")


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    nodes = [start("--head", "--port", str(port), "--include-dashboard=false")]
    try:
        wait_for(nodes[0])
        nodes.append(start("--address", address))
        wait_for(nodes[1])
        yield address
    finally:
        for node in reversed(nodes):  # the rest of a node ends when this does
            os.killpg(node.pid, signal.SIGKILL)
            node.communicate()


def test_a_cluster_of_two_nodes_trains_what_one_process_does(cluster: str, tmp_path: Path):
    """Each node has room for one of the two workers, so that the state travels between them."""
    whole = tiny.train(tmp_path / "serial", strategy="greedy").folder
    settings = tiny.settings(
        tmp_path / "run",
        strategy={"name": "greedy-parallel", "workers": 2, "timeline": True},
        ray={"address": cluster, "resources": {"gleam": 1}},
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(dump_config(settings)))
    command = [sys.executable, "-m", "gleam", "train", str(config)]
    run = subprocess.run(
        command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 workers train the modules 0-0, 1-1" in run.stdout
    assert_same_run(tmp_path / "run", whole)
