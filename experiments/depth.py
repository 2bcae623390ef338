"""Depth without more memory: a greedy network that grows, and is looked at after every step.

    python -m experiments.depth [--preset quick|small] [--out FOLDER] [--jobs 1] [--publish]

A network is trained greedily, and grown to one depth after another (``gleam.grow``): what is there
stays as it is, and the new steps train for as many iterations in modules as long as before. Beside
it a network of the first depth is trained end to end, on the same scans for as many iterations. The
test cases are the same for all seeds. As steps stay as they are, the deepest network shows the
quality at every depth.

Every training goes on where it was stopped, and is not repeated. Memory and time of a training step
are measured behind them, in one process with one thread, all depths in turn, and those of training
as many steps end to end beside them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

import gleam
from experiments.depth_report import END_TO_END, GREEDY, summarise, write_report
from experiments.memory_cost import Job as CostJob
from experiments.memory_cost import comparable, measure
from experiments.memory_report import write_json
from experiments.provenance import RESULTS, provenance
from experiments.run_outputs import reconstructions_by_step
from experiments.training_runs import finished, training_seconds
from gleam.build import build_device, build_loaders
from gleam.config import Config, ConfigError, load_config
from gleam.data.workers import run_jobs
from gleam.data_config import Count, Section
from gleam.evaluation import open_network
from gleam.metrics import complex_psnr
from gleam.run_folder import RunFolderError

SETTINGS = Path(__file__).parent / "configs" / "depth.yaml"
RUNS = Path("runs/depth")


class Growth(Section):
    """Settings of a preset."""

    config: dict[str, Any]
    """Of the network before it grows; its seed is that of the test scans."""
    depths: Annotated[list[Count], Field(min_length=1)]
    """Steps of the network whenever it has grown."""
    seeds: Annotated[list[int], Field(min_length=1)]
    """Of first weights, and of scans to train and validate on."""
    repeats: Count
    """Rounds of the measurement of time."""

    @property
    def base(self) -> Config:
        """The network before it grows."""
        return load_config(self.config)


@dataclass(frozen=True)
class _Job:
    growth: Growth
    seed: int
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        return {"seed": self.seed, "depths": self.growth.depths, **comparable(self.growth.base)}


def run(
    preset: str = "quick",
    *,
    out: Path | None = None,
    jobs: int = 1,
    publish: Path | None = None,
    settings: Path = SETTINGS,
) -> dict[str, Any]:
    """Train, grow, test, measure and report; goes on where it was stopped.

    Args:
        preset: name of a preset in ``settings``.
        out: folder of the runs and the report, ``runs/depth/PRESET`` by default.
        jobs: seeds at a time, each a process with one thread.
        publish: a second folder for the report, whose files are then named depth_PRESET.
        settings: YAML file of presets.

    Returns:
        What ``results.json`` holds.

    Raises:
        ConfigError: if there is no such preset, or its settings are wrong.
        RunFolderError: if the folder holds runs with other settings.
    """
    presets = yaml.safe_load(settings.read_text(encoding="utf-8"))["presets"]
    if preset not in presets:
        raise ConfigError(f"{settings} has no preset {preset!r}; choose from {[*presets]}")
    growth = Growth.model_validate(presets[preset])
    folder = out or RUNS / preset
    work = [_Job(growth, seed, folder / "runs" / str(seed)) for seed in growth.seeds]
    left = [job for job in work if not _has_result(job)]
    run_jobs(grow_and_test, left, jobs, lambda number, _: _ended(left[number]))
    cost = _measure_once(folder / "cost.json", growth, work[0].folder)
    results = [_read(job.result) for job in work]
    report = summarise(preset, growth.base, growth.depths, results, cost)
    write_report(report, folder, "results")
    if publish is not None:
        write_report(report, publish, f"depth_{preset}")
    return report


def grow_and_test(job: _Job) -> None:
    """Train the networks of one seed, or go on, and write the PSNR after each of their steps."""
    base = load_config(job.growth.base, seed=job.seed)
    first = job.folder / str(base.network.steps)
    trained = finished(gleam.train(base, resume=True, quiet=True, out=first))
    stages = {base.network.steps: trained}
    for depth in job.growth.depths:
        trained = finished(
            gleam.grow(
                trained.best,
                depth - max(stages),
                resume=True,
                quiet=True,
                out=job.folder / str(depth),
            )
        )
        stages[depth] = trained
    other = finished(
        gleam.train(base, strategy="backprop", resume=True, quiet=True, out=job.folder / END_TO_END)
    )
    networks = {GREEDY: trained, END_TO_END: other}
    write_json(
        job.result,
        {
            "seed": job.seed,
            "psnr": {
                name: psnr_by_step(result.best, base, job.growth.base.seed)
                for name, result in networks.items()
            },
            "seconds": {
                END_TO_END: training_seconds(other.folder),
                **{str(depth): training_seconds(stages[depth].folder) for depth in stages},
            },
            "settings": job.settings(),
            "provenance": provenance(),
        },
    )


def psnr_by_step(checkpoint: Path, config: Config, test_seed: int) -> list[list[float]]:
    """For every test case, the complex PSNR [dB] of the start and after each step."""
    device = build_device(config.device)
    network, _ = open_network(checkpoint, config.device)
    loader = build_loaders(config.data, test_seed)["test"]
    return [
        [
            float(complex_psnr(image, example.target))
            for image in reconstructions_by_step(network, batch, device)
        ]
        for example, batch in loader.fixed()
    ]


def _measure_once(path: Path, growth: Growth, runs: Path) -> dict[str, Any]:
    """Cost of a training step at every depth, grown and end to end; kept in a file."""
    base, depths = growth.base, [growth.base.network.steps, *growth.depths]
    configs = {
        f"{GREEDY} {depth}": load_config(runs / str(depth) / "config.yaml") for depth in depths
    }
    for depth in depths:
        configs[f"{END_TO_END} {depth}"] = load_config(
            base, network={"steps": depth}, strategy="backprop"
        )
    settings = {name: comparable(config) for name, config in configs.items()}
    if path.exists() and _read(path)["settings"] == settings:
        return _read(path)
    cost: dict[str, Any] = {}

    def done(_: int, measured: dict[str, Any] | None) -> None:
        cost.update(
            measured=measured,
            repeats=growth.repeats,
            settings=settings,
            provenance=provenance(),
        )

    run_jobs(measure, [CostJob(configs, growth.repeats)], 1, done)
    write_json(path, cost)
    return cost


def _has_result(job: _Job) -> bool:
    if not job.result.exists():
        return False
    if _read(job.result)["settings"] != job.settings():
        raise RunFolderError(
            f"{job.result} was made with other settings: remove {job.folder}, or choose another "
            "folder with out=... (--out)"
        )
    return True


def _ended(job: _Job) -> None:
    if not job.result.exists():
        raise RuntimeError(f"the process of seed {job.seed} died; was there too little memory?")
    print(f"seed {job.seed}: done", flush=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="quick", help="quick: 3 minutes; small: 25 minutes")
    parser.add_argument("--out", type=Path, help=f"default: {RUNS}/PRESET")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    parser.add_argument("--publish", action="store_true", help=f"report to {RESULTS.name}/ too")
    given = parser.parse_args()
    run(
        given.preset,
        out=given.out,
        jobs=given.jobs,
        publish=RESULTS if given.publish else None,
    )


if __name__ == "__main__":
    main()
