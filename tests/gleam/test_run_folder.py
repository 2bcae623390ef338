"""The folder of a run: what is written, and whose it is."""

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
import yaml

from gleam.config import load_config
from gleam.run_folder import Records, RunFolder, RunFolderError
from tests.gleam import tiny


def started(path: Path, **changes) -> RunFolder:
    """A folder with a run of one iteration and a checkpoint."""
    folder = RunFolder(tiny.settings(path, **changes), resume=False)
    records = folder.open_records()
    records.write({"iteration": 1, "loss": 0.5, "module_losses": [0.5]})
    records.close()
    folder.last.touch()
    return folder


def test_a_new_folder_holds_the_resolved_configuration(tmp_path: Path):
    config = tiny.settings(tmp_path / "deep" / "run")
    RunFolder(config, resume=False)
    written = yaml.safe_load((tmp_path / "deep" / "run" / "config.yaml").read_text())
    assert load_config(written) == config
    assert written["network"]["padding"] == "zeros"  # a default


def test_a_folder_with_a_run_is_refused(tmp_path: Path):
    started(tmp_path)
    with pytest.raises(RunFolderError, match=r"already holds a run: .*--resume .*out=\.\.\."):
        RunFolder(tiny.settings(tmp_path), resume=False)


def test_a_folder_with_a_checkpoint_but_no_configuration_is_refused(tmp_path: Path):
    (tmp_path / "best.pt").touch()
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder(tiny.settings(tmp_path), resume=False)
    with pytest.raises(RunFolderError, match=r"without its config\.yaml"):
        RunFolder(tiny.settings(tmp_path), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_run_that_failed_before_its_first_iteration_does_not_block_the_folder(tmp_path: Path):
    RunFolder(tiny.settings(tmp_path), resume=False).keep_records(0)
    changed = tiny.settings(tmp_path, seed=8)
    RunFolder(changed, resume=False)
    assert load_config(tmp_path / "config.yaml") == changed


def test_other_files_do_not_make_a_folder_a_run(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tiny.settings(tmp_path), resume=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_changed_settings_are_refused_on_resume_and_named(tmp_path: Path):
    started(tmp_path)
    before = (tmp_path / "config.yaml").read_bytes()
    changes = {"seed": 8, "network.features": 5, "data.mask.acceleration": [2, 3]}
    with pytest.raises(RunFolderError) as caught:
        RunFolder(tiny.settings(tmp_path, **changes), resume=True)
    assert str(caught.value).endswith(
        "cannot be resumed: data.mask.acceleration was 2.0, is now [2.0, 3.0]; "
        "network.features was 4, is now 5; seed was 7, is now 8"
    )
    assert (tmp_path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.iterations", 20),
        ("training.patience", 3),
        ("training.validate_every", 5),
        ("training.save_every", 1),
        ("device", "auto"),
    ],
)
def test_what_does_not_alter_the_weights_so_far_may_change_on_resume(tmp_path: Path, key, value):
    started(tmp_path)
    changed = tiny.settings(tmp_path, **{key: value})
    assert RunFolder(changed, resume=True).records()
    assert load_config(tmp_path / "config.yaml") == changed


def test_the_number_of_iterations_of_a_cosine_schedule_may_not_change(tmp_path: Path):
    started(tmp_path, **{"training.schedule": "cosine"})
    more = {"training.schedule": "cosine", "training.iterations": 20}
    with pytest.raises(RunFolderError, match=r"training\.iterations was 6, is now 20"):
        RunFolder(tiny.settings(tmp_path, **more), resume=True)


def test_a_moved_folder_can_be_resumed(tmp_path: Path):
    started(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    folder = RunFolder(tiny.settings(tmp_path / "there"), resume=True)
    assert [record["iteration"] for record in folder.records()] == [1]


def test_a_last_record_cut_off_by_a_crash_is_left_out(tmp_path: Path):
    folder = started(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 2, "lo')
    assert [record["iteration"] for record in folder.records()] == [1]
    folder.keep_records(1)
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")


def test_records_after_the_checkpoint_are_dropped(tmp_path: Path):
    folder = started(tmp_path)
    records = folder.open_records()
    for iteration in (2, 3, 3, 4):
        records.write({"iteration": iteration, "loss": 0.1})
    records.close()
    folder.keep_records(3)
    assert [record["iteration"] for record in folder.records()] == [1, 2, 3, 3]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".jsonl", ".pt", ".yaml"]


def test_numbers_survive_rewriting_exactly(tmp_path: Path):
    folder = started(tmp_path)
    records = folder.open_records()
    values = {"iteration": 1, "loss": 0.1 + 0.2, "module_losses": [1e-17, 1 / 3, 12345678.9]}
    records.write(values)
    records.close()
    folder.keep_records(1)
    assert folder.records()[-1] == values


def test_the_description_holds_versions_facts_and_splits(tmp_path: Path):
    folder = RunFolder(tiny.settings(tmp_path), resume=False)
    folder.describe({"train": ["a", "b"], "validate": ["c"]}, 0, seed=7)
    folder.describe({"train": ["a", "b"], "validate": ["c"]}, 5, seed=7)
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["scans"] == {"train": ["a", "b"], "validate": ["c"]}
    assert content["seed"] == 7
    assert [start["iteration"] for start in content["starts"]] == [0, 5]
    names = {"gleam", "torch", "numpy", "python", "machine", "threads"}
    assert all(names <= start["versions"].keys() for start in content["starts"])


def test_no_curves_are_drawn_without_records(tmp_path: Path):
    folder = RunFolder(tiny.settings(tmp_path), resume=False)
    folder.draw_curves()
    assert not (tmp_path / "curves.png").exists()


def test_tensorboard_gets_every_number_if_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scalars = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, value, step))

        def close(self) -> None:
            scalars.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "tensorboard")
    records = Records(tmp_path / "metrics.jsonl")
    records.write({"iteration": 3, "loss": 0.5, "module_losses": [0.7, 0.5]})
    records.close()
    assert ("loss", 0.5, 3) in scalars
    assert [s for s in scalars if s[0].startswith("module_losses")] == [
        ("module_losses/0", 0.7, 3),
        ("module_losses/1", 0.5, 3),
    ]
    assert scalars[-1] == "closed"


def test_a_configuration_that_no_run_wrote_is_not_overwritten(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("# mine\n")
    with pytest.raises(RunFolderError, match="was not written by a run"):
        RunFolder(tiny.settings(tmp_path), resume=True)
    assert (tmp_path / "config.yaml").read_text() == "# mine\n"
