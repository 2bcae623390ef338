import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gleam.plots import comparison, learning_curves


def images(shape: tuple[int, int] = (24, 16)) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(shape, generator=generator) * torch.exp(torch.tensor(0.3j))
    noise = torch.randn(shape, dtype=torch.complex64, generator=generator)
    return {"zero-filled": reference + 0.1 * noise, "GLEAM": reference + 0.01 * noise}, reference


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


def curves(modules: int = 3, validation: bool = True) -> list[dict]:
    records: list[dict] = []
    for iteration in range(120):
        losses = [math.exp(-iteration / 50) / (module + 1) for module in range(modules)]
        records.append({"iteration": iteration, "loss": sum(losses), "module_losses": losses})
        if validation and iteration % 30 == 0:
            records.append({"iteration": iteration, "psnr": 30 + iteration / 30, "ssim": 0.9})
    return records


def test_a_comparison_is_as_wide_as_its_columns_and_as_high_as_its_rows(tmp_path):
    methods, reference = images((20, 20))
    two = pixels(comparison(tmp_path / "two.png", methods, reference))
    three = pixels(comparison(tmp_path / "three.png", {**methods, "again": reference}, reference))
    bare = pixels(comparison(tmp_path / "bare.png", methods, None))
    column = three.shape[1] - two.shape[1]
    assert column == pytest.approx(450, abs=2)
    assert two.shape[1] - bare.shape[1] == pytest.approx(column, abs=2)
    assert two.shape[0] > bare.shape[0] + 400


def test_images_show_their_magnitude_in_the_window_of_the_reference(tmp_path):
    reference = torch.full((10, 10), 2.0) * torch.exp(torch.tensor(1j))
    result = pixels(comparison(tmp_path / "a.png", {"half": reference / 2}, reference))
    rows, columns = result.shape[:2]
    line = result[int(0.3 * rows), :, 0]
    assert line[columns // 4] == pytest.approx(1, abs=0.01)
    assert line[3 * columns // 4] == pytest.approx(0.5, abs=0.01)


def test_error_maps_are_complex_differences_brightened_by_the_stated_factor(tmp_path):
    from matplotlib import colormaps

    reference = torch.full((10, 10), 1.0 + 0j)
    rotated = reference * np.exp(0.1j)
    for scale in (2.0, 8.0):
        result = pixels(
            comparison(tmp_path / "e.png", {"phase": rotated}, reference, error_scale=scale)
        )
        rows, columns = result.shape[:2]
        shown = result[int(0.7 * rows), 3 * columns // 4]
        expected = colormaps["inferno"](scale * 2 * math.sin(0.05))
        np.testing.assert_allclose(shown, expected, atol=0.02)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (30, 30)])
@pytest.mark.parametrize("title", [None, "Knee, R = 8"])
def test_any_shape_of_image_gives_a_figure_of_moderate_size(tmp_path, shape, title):
    methods, reference = images(shape)
    path = comparison(tmp_path / "new" / "c.png", methods, reference, title=title)
    height, width = pixels(path).shape[:2]
    assert 300 < height < 1300
    assert 700 < width < 1500
    assert path.stat().st_size > 10_000


def test_different_images_give_different_figures_and_equal_ones_the_same(tmp_path):
    methods, reference = images()
    names = ("a.png", "b.png", "c.png")
    inputs = (methods, methods, {**methods, "GLEAM": reference + 0.05})
    a, b, c = (
        pixels(comparison(tmp_path / n, m, reference)) for n, m in zip(names, inputs, strict=True)
    )
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_leading_axes_of_size_one_are_dropped_and_more_slices_refused(tmp_path):
    methods, reference = images()
    batch = {name: image[None, None] for name, image in methods.items()}
    flat = pixels(comparison(tmp_path / "a.png", methods, reference))
    assert np.array_equal(flat, pixels(comparison(tmp_path / "b.png", batch, reference[None])))
    with pytest.raises(ValueError, match="one slice"):
        comparison(tmp_path / "c.png", {"two": reference.expand(2, -1, -1)}, reference)


def test_images_that_cannot_be_compared_are_refused(tmp_path):
    methods, reference = images()
    with pytest.raises(ValueError, match="at least one"):
        comparison(tmp_path / "a.png", {}, reference)
    with pytest.raises(ValueError, match="one shape"):
        comparison(tmp_path / "a.png", methods, reference[1:])
    assert not list(tmp_path.iterdir())


def test_learning_curves_gain_a_panel_with_validation(tmp_path):
    with_psnr = pixels(learning_curves(tmp_path / "a.png", curves()))
    without = pixels(learning_curves(tmp_path / "b.png", curves(validation=False)))
    assert with_psnr.shape[1] == 2 * without.shape[1]
    assert with_psnr.std() > 0.05


@pytest.mark.parametrize("modules", [1, 2, 12])
def test_learning_curves_take_any_number_of_modules(tmp_path, modules):
    path = learning_curves(tmp_path / "a.png", curves(modules))
    assert path.stat().st_size > 10_000


def test_a_record_of_the_total_loss_alone_is_one_curve(tmp_path):
    total = [{"iteration": i, "loss": 1 / (i + 1)} for i in range(5)]
    modules = [{**record, "module_losses": [record["loss"]]} for record in total]
    a = pixels(learning_curves(tmp_path / "a.png", total))
    assert np.array_equal(a, pixels(learning_curves(tmp_path / "b.png", modules)))


def test_records_without_losses_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no training losses"):
        learning_curves(tmp_path / "a.png", [{"iteration": 0, "psnr": 30.0}])


def test_the_suffix_chooses_the_format_and_nothing_else_is_left_behind(tmp_path):
    path = learning_curves(tmp_path / "a.pdf", curves())
    assert path.read_bytes().startswith(b"%PDF")
    assert list(tmp_path.iterdir()) == [path]


def test_the_backend_of_the_user_is_left_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    methods, reference = images()
    comparison(tmp_path / "a.png", methods, reference)
    learning_curves(tmp_path / "b.png", curves())
    assert dict(matplotlib.rcParams) == before
