import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from gleam.losses import LOSSES, complex_l1, complex_l2, magnitude_l1, ssim_loss


def pair(*shape: int, dtype: torch.dtype = torch.complex128) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(shape, dtype=dtype, generator=generator)
    return image, image + 0.5 * torch.randn(shape, dtype=dtype, generator=generator)


def test_l1_and_l2_are_means_of_the_complex_magnitude_of_the_difference():
    image, reference = pair(2, 1, 5, 6)
    difference = np.abs(image.numpy() - reference.numpy())
    assert complex_l1(image, reference).item() == pytest.approx(difference.mean())
    assert complex_l2(image, reference).item() == pytest.approx((difference**2).mean())


def test_losses_of_magnitudes_take_complex_and_real_images_and_the_others_refuse_a_mixture():
    image, reference = pair(2, 1, 8, 9)
    wanted = np.abs(np.abs(image.numpy()) - np.abs(reference.numpy())).mean()
    assert magnitude_l1(image, reference).item() == pytest.approx(wanted)
    for loss in (magnitude_l1, ssim_loss):
        assert loss(image.abs(), reference) == loss(image, reference)
    for loss in (complex_l1, complex_l2):
        with pytest.raises(ValueError, match="both be complex or both real"):
            loss(image.abs(), reference)


def test_ssim_loss_gives_each_sample_its_own_data_range():
    image, reference = pair(2, 1, 12, 10)
    image[1], reference[1] = 100 * image[1], 100 * reference[1]
    values = [
        structural_similarity(x, ref, data_range=ref.max())
        for x, ref in zip(image[:, 0].abs().numpy(), reference[:, 0].abs().numpy(), strict=True)
    ]
    assert ssim_loss(image, reference).item() == pytest.approx(1 - np.mean(values), abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    image, reference = pair(2, 1, 8, 7)
    image.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, reference), (image,))


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_image_has_zero_loss_and_a_zero_gradient(name):
    _, reference = pair(2, 1, 8, 8)
    image = reference.clone().requires_grad_(True)
    loss = LOSSES[name](image, reference)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert image.grad is not None
    assert image.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("empty", ["image", "reference", "both"])
def test_gradients_are_finite_where_image_and_reference_are_zero(name, empty):
    image, reference = pair(2, 1, 8, 8, dtype=torch.complex64)
    image = torch.zeros_like(image) if empty != "reference" else image
    reference = torch.zeros_like(reference) if empty != "image" else reference
    image.requires_grad_(True)
    loss = LOSSES[name](image, reference)
    loss.backward()
    assert torch.isfinite(loss)
    assert image.grad is not None
    assert torch.isfinite(torch.view_as_real(image.grad)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_shape_that_would_broadcast_is_refused(name):
    image, reference = pair(2, 2, 8, 8)
    with pytest.raises(ValueError, match="one shape"):
        LOSSES[name](image, reference[:, :1])


@pytest.mark.parametrize("name", LOSSES)
def test_descending_the_gradient_lowers_the_loss(name):
    image, reference = pair(1, 1, 12, 12)
    image.requires_grad_(True)
    before = LOSSES[name](image, reference)
    (gradient,) = torch.autograd.grad(before, image)
    after = LOSSES[name](image - 1e-2 * gradient / gradient.abs().max(), reference)
    assert after.item() < before.item()
