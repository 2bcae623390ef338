import numpy as np
import pytest
import sigpy
import torch

from physics.fourier import fft, ifft
from tests.helpers import assert_adjoint, normal, relative

CASES = [
    ((6, 8), (-2, -1)),
    ((5, 7), (-2, -1)),
    ((5, 8), (-1,)),
    ((6, 7), (-2,)),
    ((3, 4, 5), (-3, -2, -1)),
    ((3, 5, 4), (-2, -1)),
    ((4, 3, 5), (-3, -1)),
    ((1, 7), (-2, -1)),
]
EXACT = 1e-13


@pytest.mark.parametrize(("space", "axes"), CASES)
def test_the_transform_is_the_shifted_orthonormal_one_of_numpy(space, axes):
    image = normal(2, *space, dtype=torch.complex128)
    shifted = np.fft.ifftshift(image.numpy(), axes)
    kspace = np.fft.fftshift(np.fft.fftn(shifted, axes=axes, norm="ortho"), axes)
    assert relative(fft(image, axes), torch.from_numpy(kspace)) < EXACT
    shifted = np.fft.ifftshift(image.numpy(), axes)
    back = np.fft.fftshift(np.fft.ifftn(shifted, axes=axes, norm="ortho"), axes)
    assert relative(ifft(image, axes), torch.from_numpy(back)) < EXACT


@pytest.mark.parametrize(("space", "axes"), CASES)
def test_the_transform_agrees_with_sigpy(space, axes):
    image = normal(2, *space, dtype=torch.complex128)
    assert relative(fft(image, axes), torch.from_numpy(sigpy.fft(image.numpy(), axes=axes))) < EXACT
    back = torch.from_numpy(sigpy.ifft(image.numpy(), axes=axes))
    assert relative(ifft(image, axes), back) < EXACT


@pytest.mark.parametrize(("space", "axes"), CASES)
def test_the_transform_is_unitary(space, axes):
    x = normal(2, *space, dtype=torch.complex128)
    y = normal(2, *space, seed=1, dtype=torch.complex128)
    assert relative(ifft(fft(x, axes), axes), x) < EXACT
    assert relative(fft(ifft(x, axes), axes), x) < EXACT
    assert_adjoint(lambda t: fft(t, axes), lambda t: ifft(t, axes), x, y, EXACT)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_a_constant_image_has_all_its_energy_at_half_the_length(n):
    kspace = fft(torch.ones(n, dtype=torch.complex128), (-1,))
    wanted = torch.zeros(n, dtype=torch.complex128)
    wanted[n // 2] = n**0.5
    torch.testing.assert_close(kspace, wanted, atol=1e-14, rtol=0)


def test_two_axes_are_transformed_unless_told_otherwise():
    image = normal(2, 3, 4, 5)
    assert torch.equal(fft(image), fft(image, (-2, -1)))
    assert torch.equal(ifft(image), ifft(image, (-2, -1)))


def test_single_precision_stays_single_and_the_input_as_it_was():
    image = normal(2, 4, 5)
    before = image.clone()
    assert fft(image).dtype == ifft(image).dtype == torch.complex64
    assert torch.equal(image, before)


def test_gradients_agree_with_finite_differences():
    image = normal(1, 2, 3, dtype=torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(fft, (image,))
    assert torch.autograd.gradcheck(ifft, (image,))
