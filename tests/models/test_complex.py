import pytest
import torch
from torch import Tensor, nn

from models.complex import ComplexImages, to_channels, to_complex
from tests.helpers import normal, perturb, relative, seeded

SHAPES = [(2, 1, 4, 5), (2, 2, 4, 5), (1, 1, 3, 4, 5), (2, 2, 3, 4, 5), (1, 3, 1, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_channels_are_the_real_and_imaginary_part_of_each_map(shape, dtype):
    image = normal(*shape, dtype=dtype)
    channels = to_channels(image)
    assert channels.shape == (shape[0], 2 * shape[1], *shape[2:])
    for index in range(shape[1]):
        assert torch.equal(channels[:, 2 * index], image[:, index].real)
        assert torch.equal(channels[:, 2 * index + 1], image[:, index].imag)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_way_there_and_back_changes_nothing(shape):
    image = normal(*shape)
    assert torch.equal(to_complex(to_channels(image)), image)
    channels = normal(shape[0], 2 * shape[1], *shape[2:], dtype=torch.float32)
    assert torch.equal(to_channels(to_complex(channels)), channels)


@pytest.mark.parametrize("shape", SHAPES)
def test_channels_lie_last_in_memory(shape):
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    assert to_channels(normal(*shape)).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (1, 1, 3, 4, 5)])
def test_a_single_map_set_is_not_copied(shape):
    image = normal(*shape)
    channels = to_channels(image)
    assert channels.data_ptr() == image.data_ptr()
    assert to_complex(channels).data_ptr() == image.data_ptr()


@pytest.mark.parametrize("maps", [1, 2])
def test_lazily_conjugated_and_strided_images_are_as_good_as_any(maps):
    image = normal(2, maps, 4, 6)
    for view in (image.conj(), image[..., ::2], image.transpose(-1, -2)):
        channels = to_channels(view)
        assert torch.equal(channels[:, ::2], view.real)
        assert torch.equal(channels[:, 1::2], view.imag)


def test_gradients_agree_with_finite_differences():
    image = normal(1, 2, 2, 3, dtype=torch.complex128).requires_grad_()
    channels = normal(1, 4, 2, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(to_channels, (image,))
    assert torch.autograd.gradcheck(to_complex, (channels,))


class Spy(nn.Module):
    """A convolution that remembers what it saw and gave."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        self.input = x
        self.output = self.convolution(x)
        return self.output


@pytest.mark.parametrize("maps", [1, 2])
def test_a_real_network_acts_on_real_and_imaginary_parts(maps):
    with seeded():
        network = perturb(nn.Conv2d(2 * maps, 2 * maps, 3, padding=1))
    image = normal(2, maps, 5, 6)
    parts = [part for index in range(maps) for part in (image[:, index].real, image[:, index].imag)]
    real = network(torch.stack(parts, 1))
    wanted = torch.complex(real[:, ::2].contiguous(), real[:, 1::2].contiguous())
    assert relative(ComplexImages(network)(image), wanted) < 1e-6


@pytest.mark.parametrize("maps", [1, 2])
def test_mixed_precision_is_for_the_network_only(maps):
    with seeded():
        spy = Spy(2 * maps)
    image = normal(2, maps, 5, 6).requires_grad_()
    output = ComplexImages(spy, mixed_precision=True)(image)
    assert spy.input.dtype == torch.float32
    assert spy.output.dtype == torch.bfloat16
    assert output.dtype == torch.complex64
    assert not torch.is_autocast_enabled("cpu")
    output.abs().sum().backward()
    assert image.grad is not None
    assert image.grad.dtype == torch.complex64
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in spy.parameters())
    exact = ComplexImages(spy)(image)
    assert 0 < relative(output, exact) < 2e-2


def test_plain_precision_is_not_lowered():
    with seeded():
        spy = Spy(2)
    ComplexImages(spy)(normal(1, 1, 4, 4))
    assert spy.output.dtype == torch.float32
