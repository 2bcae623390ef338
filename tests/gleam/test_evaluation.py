"""Metrics of a checkpoint are those computed by hand from what its network gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gleam
from gleam.baselines import cg_sense, l1_wavelet
from gleam.batch import Batch
from gleam.build import build_loaders, build_source
from gleam.checkpoint import CheckpointError
from gleam.config import ConfigError, load_config
from gleam.data import DataError, find_scans, write_scan
from gleam.data.examples import stable_seed
from gleam.data.loader import mask_drawer
from gleam.metrics import evaluate_scan, evaluate_slice
from physics.masks import acceleration
from tests.gleam import tiny
from tests.helpers import make_batch, normal, relative


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.train(tmp_path_factory.mktemp("runs") / "run").best


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of two slices each."""
    folder = tmp_path_factory.mktemp("scans")
    for name, seed in (("a", 10), ("b", 20)):
        slices = torch.stack([tiny.brain_kspace(seed), tiny.brain_kspace(seed + 1)])
        write_scan(folder / f"{name}.h5", slices.numpy())
    return folder


def by_hand(network: torch.nn.Module, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
    """The image ``(maps, y, x)``: scale by the zero-filled image, run all steps, scale back."""
    batch = Batch((kspace * mask)[None], mask[None, None], maps[None])
    magnitude = batch.zero_filled.abs().flatten()
    scale = magnitude.sort().values[round(0.95 * (len(magnitude) - 1))]
    with torch.no_grad():
        return network(Batch(batch.kspace / scale, batch.mask, batch.maps))[0] * scale


def test_metrics_of_the_own_test_split_equal_those_by_hand(best: Path):
    evaluation = gleam.evaluate(best, device="cpu")
    network = gleam.load(best)
    source = build_loaders(tiny.settings(best.parent).data, seed=7)["test"].source
    draw = mask_drawer(["random_columns"], [2.0], 12)
    for number in range(2):
        example = source[number]
        mask = draw((32, 32), stable_seed("mask", f"test-{number:04d}"))
        image = by_hand(network, example.kspace, mask, example.maps)
        wanted = evaluate_slice(image, example.target)
        assert evaluation.slices["network"][number] == pytest.approx(wanted, rel=1e-4)
        batch = Batch((example.kspace * mask)[None], mask[None, None], example.maps[None])
        wanted = evaluate_slice(batch.zero_filled[0], example.target)
        assert evaluation.slices["zero-filled"][number] == pytest.approx(wanted, rel=1e-4)
        # One slice a subject: a scan has the metrics of its slice, and fastMRI's beside them.
        scan = evaluation.scans["network"][number]
        assert scan.keys() - wanted.keys() == {"fastmri_psnr", "fastmri_ssim", "fastmri_nmse"}
        assert scan["psnr"] == pytest.approx(evaluation.slices["network"][number]["psnr"])


def test_evaluating_twice_gives_the_same_numbers_and_leaves_the_random_state(best: Path):
    before = torch.get_rng_state()
    one, other = (gleam.evaluate(best, device="cpu") for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert (one.slices, one.scans) == (other.slices, other.scans)


def test_the_summary_is_mean_and_deviation_over_slices(best: Path):
    evaluation = gleam.evaluate(best, device="cpu")
    values = [row["psnr"] for row in evaluation.slices["network"]]
    summary = evaluation.summary["network"]["psnr"]
    assert summary["mean"] == pytest.approx(sum(values) / 2)
    assert summary["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert summary["count"] == 2
    assert set(evaluation.summary) == {"zero-filled", "network"}
    assert evaluation.scan_summary["network"]["fastmri_psnr"]["count"] == 2


def test_scans_that_were_left_out_are_named_and_do_not_shift_the_examples(
    best: Path, folder: Path, tmp_path: Path
):
    (tmp_path / "test").mkdir()
    for name in ("b.h5", "c.h5"):
        (tmp_path / "test" / name).write_bytes((folder / "b.h5").read_bytes())
    write_scan(tmp_path / "test" / "a.h5", torch.full((1, 3, 32, 32), torch.nan + 0j).numpy())
    settings = {"path": tmp_path, "skip_bad": True}
    evaluation = gleam.evaluate(best, settings, device="cpu")
    assert len(evaluation.slices["network"]) == 4
    assert len(evaluation.skipped) == 1
    assert "a.h5, kspace[0]: holds NaN" in evaluation.skipped[0]
    scores = sorted(row["psnr"] for row in evaluation.slices["network"])
    for name, wanted in (("worst", scores[0]), ("best", scores[-1])):
        images = evaluation.examples[name]
        assert evaluate_slice(images["network"], images["reference"])["psnr"] == wanted


def test_classical_images_of_a_volume_are_those_of_its_planes():
    batch = make_batch(3, 16, 18)
    batch = replace(batch, mask=batch.mask[:, :, :1], axes=(-2, -1)).normalised()
    images = gleam.evaluation.reconstruct_classically(batch)
    for number in range(3):
        plane = Batch(batch.kspace[:, :, number], batch.mask[:, :, 0], batch.maps[:, :, :, number])
        wanted = batch.scale * cg_sense(plane.kspace, plane.mask, plane.maps)[0, 0]
        assert relative(images["CG-SENSE"][0, number], wanted) < 1e-4


def test_settings_can_replace_those_of_the_run(best: Path):
    plain = gleam.evaluate(best, device="cpu")
    harder = gleam.evaluate(best, {"mask": {"acceleration": 2.6}, "test": 1}, device="cpu")
    assert len(harder.slices["network"]) == 1
    assert harder.slices["zero-filled"][0]["psnr"] < plain.slices["zero-filled"][0]["psnr"]
    with pytest.raises(ConfigError, match="did you mean 'acceleration'"):
        gleam.evaluate(best, {"mask": {"accelerate": 3}})


def test_a_folder_of_scans_is_scored_by_slice_and_by_scan(best: Path, folder: Path):
    evaluation = gleam.evaluate(best, folder, device="cpu")
    assert evaluation.slices == gleam.evaluate(best, str(folder), device="cpu").slices
    assert len(evaluation.slices["network"]) == 4
    assert len(evaluation.scans["network"]) == 2
    network = gleam.load(best)
    source = build_source(tiny.settings(best.parent).data, find_scans(folder))
    draw = mask_drawer(["random_columns"], [2.0], 12)
    for scan, name in enumerate("ab"):
        mask = draw((32, 32), stable_seed("mask", name))
        examples = [source[2 * scan + number] for number in range(2)]
        images = [by_hand(network, e.kspace, mask, e.maps)[0] for e in examples]
        targets = torch.stack([e.target[0] for e in examples])
        wanted = evaluate_scan(torch.stack(images), targets)
        assert evaluation.scans["network"][scan] == pytest.approx(wanted, rel=1e-4)


def test_fixed_masks_have_the_acceleration_of_the_run(best: Path, monkeypatch):
    found = []
    plain = gleam.evaluation.reconstructions

    def watch(*arguments):
        for item in plain(*arguments):
            found.append(acceleration(item[1].mask[0, 0]))
            yield item

    monkeypatch.setattr(gleam.evaluation, "reconstructions", watch)
    evaluation = gleam.evaluate(best, device="cpu")
    assert set(found) == {2.0}
    assert evaluation.accelerations == [2.0, 2.0]


def test_examples_are_the_worst_the_median_and_the_best(best: Path, folder: Path):
    evaluation = gleam.evaluate(best, folder, device="cpu")
    scores = sorted(row["psnr"] for row in evaluation.slices["network"])
    assert list(evaluation.examples) == ["worst", "median", "best"]
    for name, wanted in (("worst", scores[0]), ("median", scores[2]), ("best", scores[3])):
        images = evaluation.examples[name]
        assert set(images) == {"zero-filled", "network", "reference"}
        assert evaluate_slice(images["network"], images["reference"])["psnr"] == wanted


def test_baselines_are_compared_if_asked_for(best: Path, monkeypatch):
    weights = (0.001, 0.01, 0.1)
    monkeypatch.setattr(gleam.evaluation, "L1_WEIGHTS", weights)
    evaluation = gleam.evaluate(best, {"test": 1}, baselines=True, device="cpu")
    methods = ["zero-filled", "CG-SENSE", "L1-wavelet", "total variation", "network"]
    assert list(evaluation.summary) == methods
    settings = load_config(tiny.settings(best.parent), data={"test": 1}).data
    example, batch = next(iter(build_loaders(settings, 7)["test"].fixed()))
    measured = batch.kspace, batch.mask, batch.maps
    image = batch.scale * cg_sense(*measured)[0]
    wanted = evaluate_slice(image, example.target)
    assert evaluation.slices["CG-SENSE"][0] == pytest.approx(wanted, rel=1e-4)
    candidates = [batch.scale * l1_wavelet(*measured, weight)[0] for weight in weights]
    scores = [evaluate_slice(image, example.target)["psnr"] for image in candidates]
    assert evaluation.slices["L1-wavelet"][0]["psnr"] == pytest.approx(max(scores), rel=1e-4)
    assert min(scores) < max(scores) - 0.01


def test_two_map_sets_are_evaluated_and_have_no_baselines(tmp_path: Path):
    changes = {"data": {"map_sets": 2}, "training": {"iterations": 1}}
    best = tiny.train(tmp_path, **changes).best
    evaluation = gleam.evaluate(best, {"test": 1}, device="cpu")
    assert evaluation.examples["best"]["network"].shape == (2, 32, 32)
    with pytest.raises(ValueError, match=r"set data\.map_sets to 1"):
        gleam.evaluate(best, {"test": 1}, baselines=True, device="cpu")


def test_what_cannot_be_used_is_named(best: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        gleam.evaluate(tmp_path / "none.pt")
    with pytest.raises(DataError, match="must be a folder with scans"):
        gleam.evaluate(best, tmp_path)
    with pytest.raises(ConfigError, match="device: "):
        gleam.evaluate(best, device="abacus")
    write_scan(tmp_path / "a.h5", normal(1, 3, 32, 32).numpy(), normal(1, 2, 3, 32, 32).numpy())
    with pytest.raises(DataError, match=r"a\.h5, maps"):
        gleam.evaluate(best, tmp_path)
