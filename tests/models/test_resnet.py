import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.complex import to_channels
from models.resnet import ConvNet, ResidualBlock, ResNet, Separable, convolution
from tests.helpers import normal, perturb, relative, seeded

NETWORKS = {
    "resnet": (ResNet, {"features": 4, "blocks": 2}),
    "convnet": (ConvNet, {"features": 4, "layers": 4}),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
every_padding = pytest.mark.parametrize("padding", ["zeros", "reflect"])


def make(name: str, **settings) -> nn.Module:
    cls, small = NETWORKS[name]
    with seeded():
        return perturb(cls(**{**small, **settings}), scale=1.0).double()


def reference(network: nn.Module, x: Tensor, padding: str) -> Tensor:
    """The networks once more, from functions that keep all they get."""
    ndim = x.ndim - 2
    convolve = {2: F.conv2d, 3: F.conv3d}[ndim]
    mode = "constant" if padding == "zeros" else padding

    def wide(h: Tensor, layer: nn.Module) -> Tensor:
        return convolve(F.pad(h, [1] * 2 * ndim, mode), layer.weight, layer.bias)

    if isinstance(network, ConvNet):
        layers = [layer for layer in network.layers if not isinstance(layer, nn.ReLU)]
        h = wide(x, layers[0])
        for layer in layers[1:]:
            h = wide(torch.relu(h), layer)
        return x + h
    h = x
    for block in network.blocks:
        side = h
        if h.shape[1] != block.first.weight.shape[0]:
            side = convolve(h, block.shortcut.weight, block.shortcut.bias)
        h = side + wide(torch.relu(wide(torch.relu(h), block.first)), block.second)
    return x + wide(h, network.last)


def test_parameter_counts_are_those_published():
    with seeded():
        counts = [sum(p.numel() for p in net.parameters()) for net in (ResNet(), ConvNet())]
    assert counts == [273_902, 134_820]


@every_network
@every_padding
@pytest.mark.parametrize(("ndim", "channels"), [(2, 2), (2, 4), (3, 2), (3, 6)])
def test_output_and_gradients_are_those_of_plain_functions(name, padding, ndim, channels):
    network = make(name, ndim=ndim, channels=channels, padding=padding)
    x = normal(2, channels, *(4, 5, 6)[-ndim:], dtype=torch.float64).requires_grad_()
    weight = normal(*x.shape, seed=1, dtype=torch.float64)
    leaves = (x, *network.parameters())
    output, wanted = network(x), reference(network, x, padding)
    assert relative(output, wanted) < 1e-13
    assert relative(output, x) > 1e-2
    gradients = torch.autograd.grad((output * weight).sum(), leaves)
    references = torch.autograd.grad((wanted * weight).sum(), leaves)
    for ours, theirs in zip(gradients, references, strict=True):
        assert theirs.norm() > 0
        assert relative(ours, theirs) < 1e-12


@every_network
@every_padding
def test_channels_last_images_give_the_same(name, padding):
    network = make(name, padding=padding).float()
    image = normal(2, 1, 5, 6)
    wanted = reference(network, to_channels(image).contiguous(), padding)
    before = image.clone()
    assert relative(network(to_channels(image)), wanted) < 1e-5
    assert torch.equal(image, before)  # which shares its memory with the channels


@every_network
def test_gradients_agree_with_finite_differences(name):
    network = make(name, features=2)
    x = normal(1, 2, 2, 2, dtype=torch.float64).requires_grad_()
    parameters = dict(network.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(network, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters.values()))


@every_network
@pytest.mark.parametrize("ndim", [2, 3])
def test_an_untrained_network_is_the_identity(name, ndim):
    cls, small = NETWORKS[name]
    with seeded():
        network = cls(**small, ndim=ndim)
    x = normal(1, 2, *[5] * ndim, dtype=torch.float32)
    assert torch.equal(network(x), x)
    assert sum(bool(p.abs().max() == 0) for p in network.parameters() if p.ndim > 1) == 1


@every_network
def test_an_untrained_network_learns_from_the_first_step(name):
    cls, small = NETWORKS[name]
    with seeded():
        network = cls(**small)
    network(normal(1, 2, 5, 5, dtype=torch.float32)).square().sum().backward()
    assert any(p.grad.norm() > 0 for p in network.parameters())


def test_a_block_of_constant_width_has_a_free_shortcut():
    with seeded():
        assert not list(ResidualBlock(2, 4, 4).shortcut.parameters())
        assert len(list(ResidualBlock(2, 3, 4).shortcut.parameters())) == 2


@pytest.mark.parametrize("cls", [ResNet, ConvNet])
@pytest.mark.parametrize("ndim", [1, 4])
def test_other_dimensions_are_refused(cls, ndim):
    with pytest.raises(ValueError, match=rf"one of \[2, 3\], got {ndim}"):
        cls(features=4, ndim=ndim)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_convolution_keeps_the_size(size):
    with seeded():
        layer = convolution(2, 2, 3, size)
    assert layer(torch.ones(1, 2, 6, 7)).shape == (1, 3, 6, 7)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_convolution_over_planes_is_one_over_the_volume(size, depth):
    """Values, gradients and channels-last layout, also of volumes thinner than the kernel."""
    with seeded():
        layer = perturb(convolution(3, 2, 3, size, bias=True).double())
    x = normal(2, 2, depth, 6, 7, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight = normal(2, 3, depth, 6, 7, seed=1, dtype=torch.float64)
    wanted = F.conv3d(x, layer.weight, layer.bias, padding=size // 2)
    got = layer(x)
    assert relative(got, wanted) < 1e-12
    assert got.is_contiguous(memory_format=torch.channels_last_3d)
    sources = [x, layer.weight, layer.bias]
    theirs, ours = (torch.autograd.grad((y * weight).sum(), sources) for y in (wanted, got))
    for one, other in zip(ours, theirs, strict=True):
        assert relative(one, other) < 1e-12


def composed(layer: Separable) -> Tensor:
    """The weights ``(outputs, inputs, 3, 3, 3)`` of the one convolution that two factors make."""
    line, plane = layer.line.weight[..., 0], layer.plane.weight
    product = "hik,ohyx->oikyx" if layer.line_first else "ohk,hiyx->oikyx"
    return torch.einsum(product, line, plane)


@every_padding
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 5), (5, 2), (4, 4)])
def test_a_separable_convolution_is_the_full_one_of_its_factors_product(padding, inputs, outputs):
    """Values, gradients and channels-last layout; zeros around an image stay zeros in between."""
    with seeded():
        layer = perturb(convolution(3, inputs, outputs, 3, True, padding, separable=True).double())
    x = normal(2, inputs, 3, 4, 5, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    mode = "constant" if padding == "zeros" else padding
    bias = layer.plane.bias if layer.line_first else layer.line.bias
    wanted = F.conv3d(F.pad(x, [1] * 6, mode), composed(layer), bias)
    got = layer(x)
    assert relative(got, wanted) < 1e-13
    assert got.is_contiguous(memory_format=torch.channels_last_3d)
    weight = normal(*got.shape, seed=1, dtype=torch.float64)
    leaves = [x, *layer.parameters()]
    theirs, ours = (torch.autograd.grad((y * weight).sum(), leaves) for y in (wanted, got))
    for one, other in zip(ours, theirs, strict=True):
        assert relative(one, other) < 1e-12


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 16), (16, 2), (16, 16)])
def test_a_separable_convolution_is_cheap_and_starts_as_a_2d_one(inputs, outputs):
    with seeded():
        layer, full = (
            convolution(3, inputs, outputs, separable=wanted) for wanted in (True, False)
        )
    sizes = [sum(p.numel() for p in network.parameters()) for network in (layer, full)]
    assert sizes[0] <= 12 / 27 * sizes[1]
    x = normal(1, inputs, 3, 6, 7, dtype=torch.float32)
    plane = F.conv2d(x[:, :, 1], layer.plane.weight, padding=1)
    assert relative(layer(x)[:, :, 1], plane) < 1e-6


@every_network
def test_an_untrained_separable_network_is_the_identity_and_all_of_its_weights_learn(name):
    cls, small = NETWORKS[name]
    with seeded():
        network = cls(**small, ndim=3, separable=True)
    x = normal(1, 2, 4, 5, 6, dtype=torch.float32)
    assert torch.equal(network(x), x)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):  # the last layer comes first, and what is before it then
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_only_3_wide_convolutions_in_3d_are_separable():
    for ndim, size in ((2, 3), (3, 5)):
        with pytest.raises(ValueError, match=f"got size {size} and ndim {ndim}"):
            convolution(ndim, 2, 2, size, separable=True)


@pytest.mark.parametrize("network", [ResNet, ConvNet])
def test_images_of_another_dimension_are_refused(network):
    with seeded():
        volumes = network(features=4, ndim=3)
    with pytest.raises(ValueError, match="ndim = 3 takes"):
        volumes(torch.zeros(2, 2, 8, 8))
