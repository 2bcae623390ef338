"""Arrays from files and images into them."""

from pathlib import Path

import numpy as np
import pytest
import torch

import gleam.files
from gleam.config import load_config
from gleam.data import DataError
from gleam.files import read_array, read_measurements, save_reconstruction
from tests.helpers import normal


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_array(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_arrays_are_read_from_npy(tmp_path: Path):
    array = normal(2, 3, 4).numpy()
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(read_array(tmp_path / "a.npy"), array)


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    assert refusal(tmp_path / "none.npy").startswith("no such file: ")
    (tmp_path / "a.npy").write_bytes(b"garbage")
    assert "cannot be read as .npy" in refusal(tmp_path / "a.npy")
    (tmp_path / "a.h5").write_bytes(b"garbage")
    assert refusal(tmp_path / "a.h5").endswith("must be a .npy file")


def test_a_truncated_file_is_refused(tmp_path: Path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((20, 20)))
    path.write_bytes(path.read_bytes()[:500])
    assert "cannot be read as .npy" in refusal(path)


def test_objects_in_a_file_are_not_unpickled(tmp_path: Path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "Python objects" in refusal(path)


@pytest.mark.parametrize("shape", [(16, 20), (3, 16, 20), (3, 2, 16, 20), (1, 2, 5, 16, 20)])
def test_an_image_is_written_with_a_picture_beside_it(tmp_path: Path, shape):
    image = normal(*shape)
    written = save_reconstruction(tmp_path / "new" / "image.npy", image, 0.5 * image)
    assert written == [tmp_path / "new" / "image.npy", tmp_path / "new" / "image.png"]
    assert torch.equal(torch.from_numpy(np.load(written[0])), image)
    assert written[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("given", "used"), [(None, "mridata_fse"), ("auto", "auto")])
def test_scans_are_read_in_the_format_of_the_training_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, used: str
):
    config = load_config({"data": {"path": "scans", "format": "mridata_fse", "items": "volumes"}})
    asked = []
    monkeypatch.setattr(gleam.files, "read_checkpoint", lambda path: {})
    monkeypatch.setattr(gleam.files, "read_config", lambda content, path: config)
    monkeypatch.setattr(gleam.files, "open_scan", lambda *words: words)
    monkeypatch.setattr(gleam.files, "measurements", lambda *words: asked.append(words))
    read_measurements(tmp_path / "a.h5", tmp_path / "best.pt", given)
    assert asked == [((tmp_path / "a.h5", used), "volumes")]


@pytest.mark.parametrize("name", ["image", "image.png", "image.npy"])
def test_the_suffix_of_the_name_does_not_matter(tmp_path: Path, name: str):
    written = save_reconstruction(tmp_path / name, normal(16, 16), normal(16, 16))
    assert [path.name for path in written] == ["image.npy", "image.png"]
