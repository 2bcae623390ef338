"""Training on all kinds of items, with workers, and with files that cannot be read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gleam
from gleam.data import DataError, write_scan
from gleam.run_folder import RunFolderError
from tests.gleam import tiny
from tests.helpers import normal


def put(folder: Path, **counts: int) -> None:
    """So many scans of one slice in every split."""
    seed = 0
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            seed += 1
            kspace = tiny.brain_kspace(seed)[None].numpy()
            write_scan(folder / split / f"{split}{number}.h5", kspace)


def spoil(path: Path) -> None:
    write_scan(path, np.full((1, 3, 32, 32), np.nan, np.complex64))


VOLUMES = {
    **{"anatomy": "knee", "items": "volumes", "size": [16, 36, 32]},
    **{"train": 2, "validate_on": 1, "test": 1},
}
CINES = {"anatomy": "heart", "items": "cines", "size": [4, 48, 40], "train": 2, "validate_on": 1}


@pytest.mark.slow
@pytest.mark.parametrize("step", ["pgd", "modl"])
@pytest.mark.parametrize(
    "data",
    [
        VOLUMES,
        {**VOLUMES, "slab": 8, "mask": {"kind": "poisson_disc"}},
        {**CINES, "test": 1, "mask": {"kind": "kt_variable_density", "calibration": 12}},
        {**CINES, "test": 1, "items": "frames"},
        {"anatomy": "knee", "contrast": "PD", "size": [40, 32]},
    ],
)
def test_all_kinds_of_images_train_evaluate_and_reconstruct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any, step: str
):
    monkeypatch.setattr(gleam.evaluation, "L1_WEIGHTS", (0.01,))
    result = tiny.train(tmp_path, data=data, network={"step": step}, training={"iterations": 4})
    assert result.finished
    baselines = step == "pgd" and data is not VOLUMES  # those of slabs are the same, and take long
    evaluation = gleam.evaluate(result.best, baselines=baselines, device="cpu")
    scores = {method: rows[0]["psnr"] for method, rows in evaluation.slices.items()}
    assert all(np.isfinite(score) for score in scores.values())
    if step == "modl":  # already better than no reconstruction
        assert scores["network"] > scores["zero-filled"]
    config = tiny.settings(tmp_path, data=data)
    loader = gleam.build.build_loaders(config.data, config.seed)["test"]
    example, batch = next(iter(loader.fixed()))
    image = gleam.reconstruct(
        result.best,
        (example.kspace * batch.mask[0]).numpy(),
        batch.mask[0, 0].numpy(),
        example.maps.numpy(),
        device="cpu",
    )
    wanted = evaluation.examples["best"]["network"]
    if len(evaluation.slices["network"]) == 1:
        assert np.allclose(image.numpy(), wanted[0].numpy(), atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tmp_path: Path, workers: int):
    for name, count in (("without", 0), ("with", workers)):
        tiny.train(tmp_path / name, data={"workers": count})
    tiny.assert_same_run(tmp_path / "with", tmp_path / "without")


def test_a_run_does_not_go_on_with_other_scans(tmp_path: Path):
    put(tmp_path / "data", train=2, validate=2)
    data = {"path": tmp_path / "data"}
    tiny.train(tmp_path / "run", data=data, **{"training.iterations": 2})
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 3, "loss": 1.0}\n')  # as a run leaves it that was killed
    moved = tmp_path / "data" / "validate" / "validate1.h5"
    moved.rename(tmp_path / "data" / "train" / "validate1.h5")
    files = [tmp_path / "run" / name for name in ("run.json", "metrics.jsonl", "last.pt")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(RunFolderError, match="other scans to train and validate on"):
        tiny.train(tmp_path / "run", data=data, resume=True)
    assert [file.read_bytes() for file in files] == before


def test_a_run_that_reads_nothing_at_all_leaves_no_checkpoint(tmp_path: Path):
    put(tmp_path / "data", train=1, validate=1)
    spoilt = tmp_path / "data" / "train" / "train0.h5"
    good = spoilt.read_bytes()
    spoil(spoilt)
    data = {"path": tmp_path / "data"}
    with pytest.raises(DataError, match=r"holds NaN or infinity$"):
        tiny.train(tmp_path / "run", data=data)
    assert not (tmp_path / "run" / "last.pt").exists()
    spoilt.write_bytes(good)
    assert tiny.train(tmp_path / "run", data=data).finished


def test_a_validation_that_could_not_read_a_scan_is_made_up_for(tmp_path: Path):
    put(tmp_path / "data", train=2, validate=2)
    data = {"path": tmp_path / "data"}
    tiny.train(tmp_path / "whole", data=data)
    spoilt = tmp_path / "data" / "validate" / "validate1.h5"
    good = spoilt.read_bytes()
    spoil(spoilt)
    with pytest.raises(DataError, match="saved after iteration 2"):
        tiny.train(tmp_path / "run", data=data)
    spoilt.write_bytes(good)
    tiny.train(tmp_path / "run", data=data, resume=True)
    tiny.assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_validation_split_without_a_good_scan_is_an_error(tmp_path: Path):
    put(tmp_path / "data", train=2, validate=1)
    spoil(tmp_path / "data" / "validate" / "validate0.h5")
    with pytest.raises(DataError, match=r"no example can be used; .*validate0\.h5.*NaN"):
        tiny.train(tmp_path / "run", data={"path": tmp_path / "data", "skip_bad": True})


def test_a_scan_in_two_splits_is_refused_before_anything_is_written(tmp_path: Path):
    put(tmp_path / "data", train=1, validate=1)
    kspace = tiny.brain_kspace(5)[None].numpy()
    write_scan(tmp_path / "data" / "validate" / "train0.h5", kspace)
    with pytest.raises(DataError, match="train0 is in two splits, which would leak"):
        tiny.train(tmp_path / "run", data={"path": tmp_path / "data"})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["train", "validate"])
def test_splits_that_training_needs_are_named(tmp_path: Path, missing: str):
    put(tmp_path / "data", **{split: 1 for split in ("train", "validate") if split != missing})
    with pytest.raises(DataError, match=f"must have scans to {missing} on"):
        tiny.train(tmp_path / "run", data={"path": tmp_path / "data"})


def test_a_bad_scan_in_the_middle_of_a_run_loses_nothing(tmp_path: Path):
    put(tmp_path / "data", train=6, validate=1)
    data = {"path": tmp_path / "data"}
    rarely = {"validate_every": 6, "save_every": 6}
    tiny.train(tmp_path / "whole", data=data, training=rarely)
    spoilt = tmp_path / "data" / "train" / "train3.h5"
    good = spoilt.read_bytes()
    spoil(spoilt)
    with pytest.raises(DataError, match=r"holds NaN.*saved after iteration (\d)") as caught:
        tiny.train(tmp_path / "run", data=data, training=rarely)
    assert str(spoilt) in str(caught.value)
    assert "data.skip_bad=true" in str(caught.value)
    iteration = tiny.state(tmp_path / "run" / "last.pt")["iteration"]
    assert f"after iteration {iteration}" in str(caught.value)
    spoilt.write_bytes(good)
    tiny.train(tmp_path / "run", data=data, training=rarely, resume=True)
    tiny.assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_scans_are_left_out_and_listed_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
):
    folder = tmp_path / "data"
    put(folder, train=4, validate=2)
    spoil(folder / "train" / "train1.h5")
    spoil(folder / "validate" / "validate0.h5")
    (folder / "train" / "cut.h5").write_bytes((folder / "train" / "train0.h5").read_bytes()[:1000])
    write_scan(folder / "train" / "cine.h5", normal(1, 3, 2, 32, 32).numpy())
    data = {"path": folder, "skip_bad": True, "workers": workers}
    result = tiny.train(tmp_path / "run", quiet=False, data=data)
    assert result.finished
    bad = ("train1.h5", "validate0.h5", "cut.h5", "cine.h5")
    for name in bad:
        assert sum(name in reason for reason in result.skipped) == 1
    printed = capsys.readouterr().out
    assert printed.count("left out: ") == len(bad) == len(result.skipped)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(facts["scans"]["train"]) == 4  # those whose header can be read


def test_fixed_masks_of_a_scan_do_not_depend_on_the_split_list(tmp_path: Path):
    put(tmp_path, test=2)
    config = tiny.settings(tmp_path / "run", data={"path": tmp_path})
    masks = [b.mask for _, b in gleam.build.build_loaders(config.data, 7)["test"].fixed()]
    (tmp_path / "test" / "test0.h5").unlink()
    again = [b.mask for _, b in gleam.build.build_loaders(config.data, 9)["test"].fixed()]
    assert np.array_equal(masks[1], again[0])
