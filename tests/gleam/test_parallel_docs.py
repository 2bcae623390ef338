"""What the documentation says of several devices runs, apart from Ray on several machines."""

from pathlib import Path

from tests.gleam import test_parallel_cluster
from tests.gleam.ray_session import ROOT
from tests.helpers import seeded
from tests.snippets import blocks_of, cut_down, run

pytestmark = test_parallel_cluster.pytestmark

NOT_RUN = {
    "export RAY_AUTH_MODE": "test_parallel_cluster.py starts such a cluster",
    "ray start": "the same",
    "gleam train my_run.yaml ray.address=auto": "the same",
    "gleam train my_run.yaml strategy.workers=4": "eight workers; test_parallel.py has replicas",
}


def test_what_the_page_on_clusters_says_to_run_runs(tmp_path: Path, monkeypatch, ray_session):
    monkeypatch.chdir(tmp_path)
    cut_down(monkeypatch)
    with seeded():
        run(blocks_of(ROOT / "docs" / "cluster.md"), {}, [*NOT_RUN])
    assert (tmp_path / "runs" / "parallel" / "best.pt").exists()
