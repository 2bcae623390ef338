"""Arrays of a user become a batch, or an error that says what must hold, what came, what to do."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gleam.data.estimate import estimate_maps
from gleam.inputs import make_batch
from physics.coils import espirit
from physics.masks import random_columns
from tests.gleam import tiny
from tests.helpers import normal, relative

SIZE = 40
COILS = 4


@pytest.fixture(scope="module")
def full() -> Tensor:
    return tiny.brain_kspace(3, SIZE, COILS)


@pytest.fixture(scope="module")
def mask() -> Tensor:
    return random_columns((SIZE, SIZE), 2, 12, seed=1)


@pytest.fixture(scope="module")
def maps(full: Tensor) -> Tensor:
    return espirit(full[None], 12)[0]


def test_the_inferred_mask_is_the_true_one(full: Tensor, mask: Tensor):
    batch = make_batch(full * mask)
    assert torch.equal(batch.mask[0, 0], mask)
    assert batch.mask.shape == (1, 1, 1, SIZE)  # compact: the readout needs no FFT
    assert torch.equal(batch.kspace[0], full * mask)
    assert (batch.target, batch.scale) == (None, None)


def test_an_inferred_mask_of_two_axes_is_the_true_one(full: Tensor, maps: Tensor):
    sampled = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(1)) < 0.4
    assert torch.equal(make_batch(full * sampled, maps=maps).mask[0, 0], sampled.float())


def test_a_zero_in_one_coil_is_no_hole_in_the_mask(full: Tensor, mask: Tensor, maps: Tensor):
    spoilt = full * mask
    spoilt[0, 3] = 0
    assert torch.equal(make_batch(spoilt, maps=maps).mask[0, 0], mask)


def test_samples_outside_a_given_mask_are_dropped(full: Tensor, mask: Tensor, maps: Tensor):
    batch = make_batch(full, mask, maps)
    assert torch.equal(batch.kspace[0], full * mask)
    assert torch.equal(batch.mask[0, 0], mask)


@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "float32", "float64"])
def test_a_mask_may_be_of_any_real_type_and_of_full_size(full, mask, maps, kind: str):
    given = mask.expand(SIZE, SIZE).numpy().astype(kind)
    assert torch.equal(make_batch(full, given, maps).mask[0, 0], mask)


def test_maps_come_from_the_calibration_lines_only(full: Tensor, mask: Tensor):
    spoilt = full * mask
    outside = mask.clone()
    outside[:, SIZE // 2 - 6 : SIZE // 2 + 6] = 0
    spoilt = spoilt + 100 * outside
    clean = make_batch(full * mask).maps
    assert clean.shape == (1, 1, COILS, SIZE, SIZE)
    assert torch.equal(make_batch(spoilt).maps, clean)
    assert torch.equal(clean[0], espirit((full * mask)[None], (24, 12))[0])


def test_two_map_sets_are_estimated_if_asked_for(full: Tensor, mask: Tensor):
    assert make_batch(full * mask, map_sets=2).maps.shape == (1, 2, COILS, SIZE, SIZE)


def test_given_maps_are_taken_as_they_are(full: Tensor, mask: Tensor, maps: Tensor):
    for given in (maps, maps[0]):  # with and without the axis of sets
        assert torch.equal(make_batch(full, mask, given).maps[0], maps)
    both = torch.cat([maps, maps])
    assert torch.equal(make_batch(full, mask, both).maps[0], both)


def test_numpy_and_torch_give_the_same_batch(full: Tensor, mask: Tensor, maps: Tensor):
    ours = make_batch(full, mask, maps)
    theirs = make_batch(full.numpy(), mask.numpy(), maps.numpy())
    for name in ("kspace", "mask", "maps"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_double_precision_is_reduced_to_single(full: Tensor, mask: Tensor, maps: Tensor):
    batch = make_batch(full.to(torch.complex128), mask, maps.to(torch.complex128))
    assert batch.kspace.dtype == batch.maps.dtype == torch.complex64
    assert relative(batch.kspace[0], full * mask) < 1e-7


def test_flipped_read_only_and_big_endian_arrays_are_taken(full, mask, maps):
    flipped = full.numpy()[..., ::-1]
    locked = full.numpy().copy()
    locked.flags.writeable = False
    cases = [(flipped, full.flip(-1)), (locked, full), (full.numpy().astype(">c8"), full)]
    for given, wanted in cases:
        batch = make_batch(given, np.ones((SIZE, SIZE)), maps)
        assert torch.equal(batch.kspace[0], wanted)


def test_input_is_not_changed(full: Tensor, mask: Tensor, maps: Tensor):
    before = full.clone()
    make_batch(full, mask, maps).kspace.mul_(2)
    assert torch.equal(full, before)


def test_slices_keep_their_own_masks_and_maps(full: Tensor):
    masks = torch.stack([random_columns((SIZE, SIZE), 2, 12, seed) for seed in (1, 2)])
    slices = torch.stack([full, tiny.brain_kspace(4, SIZE, COILS)]) * masks[:, None]
    batch = make_batch(slices)
    assert len(batch) == 2
    assert torch.equal(batch.mask[:, 0], masks)
    for number, one in enumerate(batch.split()):
        alone = make_batch(slices[number])
        for name in ("kspace", "mask", "maps"):
            assert torch.equal(getattr(one, name), getattr(alone, name))
    given = make_batch(slices, masks, batch.maps[:, 0])
    assert torch.equal(given.maps, batch.maps)
    one_for_all = make_batch(slices, torch.ones(SIZE, SIZE), batch.maps)
    assert one_for_all.mask.shape == (2, 1, 1, 1)


def test_volumes_have_three_axes_of_which_two_are_encoded():
    kspace = normal(2, 4, 8, 8)
    batch = make_batch(kspace, maps=normal(2, 4, 8, 8, seed=1), items="volumes")
    assert batch.kspace.shape == (1, 2, 4, 8, 8)
    assert batch.maps.shape == (1, 1, 2, 4, 8, 8)
    assert batch.axes == (-2, -1)
    planes = [make_batch(kspace[:, z], maps=batch.maps[0, :, :, z]).zero_filled for z in range(4)]
    assert relative(batch.zero_filled, torch.stack(planes, 2)) < 1e-6


def test_maps_of_a_volume_are_estimated_in_three_dimensions(full: Tensor):
    kspace = torch.stack([full] * 8, 1) * torch.linspace(1, 2, 8)[:, None, None]
    maps = make_batch(kspace, items="volumes", calibration=12).maps
    wanted = estimate_maps(kspace.movedim(1, 0), calibration=12, volume=True)
    assert torch.equal(maps[0], wanted.movedim(0, 2))


def test_a_cine_has_one_set_of_maps_for_all_frames(full: Tensor):
    masks = torch.stack([random_columns((SIZE, SIZE), 2, 12, seed) for seed in (1, 2, 3)])
    cine = full[:, None] * masks
    batch = make_batch(cine, items="cines", calibration=12)
    assert batch.mask.shape == (1, 1, 3, 1, SIZE)
    assert torch.equal(batch.mask[0, 0], masks)
    assert torch.equal(batch.maps, estimate_maps(cine[None], calibration=12, dynamic=True))
    assert batch.maps.shape == (1, 1, COILS, 1, SIZE, SIZE)
    given = make_batch(cine, maps=batch.maps[0], items="cines")
    assert torch.equal(given.maps, batch.maps)
    message = refusal(ValueError, cine, maps=batch.maps[0, :, :, 0], items="cines")
    assert "coil maps" in message


def refusal(kind: type[Exception], *arguments, **named) -> str:
    with pytest.raises(kind) as caught:
        make_batch(*arguments, **named)
    return str(caught.value)


@pytest.mark.parametrize("shape", [(0, 8, 8), (2, 0, 8), (2, 8, 8)])
def test_empty_kspace_is_refused(shape):
    message = refusal(ValueError, torch.zeros(shape, dtype=torch.complex64))
    assert message == f"k-space of shape {shape} is empty: no sample is non-zero"


@pytest.mark.parametrize("bad", [complex("nan"), complex(0, float("inf"))])
def test_kspace_that_is_not_finite_is_refused(full: Tensor, bad: complex):
    spoilt = full.clone()
    spoilt[1, 2, 3] = bad
    assert refusal(ValueError, spoilt).startswith("k-space holds NaN or infinity; ")


def test_real_kspace_is_refused(full: Tensor):
    assert refusal(TypeError, full.abs()) == "k-space must be complex, got torch.float32"


@pytest.mark.parametrize("axes", [2, 5])
def test_kspace_of_another_rank_is_refused(axes: int):
    message = refusal(ValueError, normal(*[4] * axes))
    assert message.startswith("k-space must be (coils, *space) or (slices, coils, *space) with 2 ")
    assert message.endswith(f"got shape {(4,) * axes}")


def test_maps_that_do_not_fit_name_the_axis(full: Tensor, mask: Tensor, maps: Tensor):
    start = "coil maps and k-space do not fit: axis "
    cases = {
        f"-3 has size 3 in the coil maps, {COILS} in k-space": maps[:, :3],
        f"-2 has size 39 in the coil maps, {SIZE} in k-space": maps[:, :, 1:],
        f"-1 has size 1 in the coil maps, {SIZE} in k-space": maps[..., :1],
    }
    for message, given in cases.items():
        assert refusal(ValueError, full, mask, given) == start + message
    several = torch.stack([full, full, full])
    message = refusal(ValueError, several, mask, torch.stack([maps, maps]))
    assert message == start + "-4 has size 2 in the coil maps, 3 in k-space"


def test_maps_of_another_kind_are_refused(full: Tensor, mask: Tensor, maps: Tensor):
    assert refusal(TypeError, full, mask, maps.abs()).startswith("coil maps must be complex")
    assert "got shape (40, 40)" in refusal(ValueError, full, mask, maps[0, 0])
    assert "coil maps hold NaN" in refusal(ValueError, full, mask, maps * float("nan"))


def test_a_mask_that_does_not_fit_names_the_axis(full: Tensor, mask: Tensor, maps: Tensor):
    message = refusal(ValueError, full, mask[:, 1:], maps)
    assert message == "mask and k-space do not fit: axis -1 has size 39 in the mask, 40 in k-space"
    message = refusal(ValueError, full, torch.ones(20, SIZE), maps)
    assert message == "mask and k-space do not fit: axis -2 has size 20 in the mask, 40 in k-space"
    message = refusal(ValueError, full, torch.ones(COILS, SIZE, SIZE), maps)
    assert message == "mask and k-space do not fit: axis -3 has size 4 in the mask, 1 in k-space"
    assert "mask: expected 3 axes" in refusal(ValueError, full, torch.ones(SIZE), maps)


def test_a_mask_of_another_kind_is_refused(full: Tensor, mask: Tensor, maps: Tensor):
    message = refusal(TypeError, full, mask.to(torch.complex64), maps)
    assert message == "the mask must be real or boolean, got torch.complex64"
    for given in (255 * mask, 0.5 * mask, mask * float("nan")):
        assert "must hold 0 and 1 only; pass mask != 0" in refusal(ValueError, full, given, maps)


def test_a_mask_that_samples_nothing_is_refused(full: Tensor, maps: Tensor):
    message = refusal(ValueError, full, torch.zeros(1, SIZE), maps)
    assert message.endswith("got none; is it inverted?")
    masks = torch.stack([torch.ones(1, SIZE), torch.zeros(1, SIZE)])
    refusal(ValueError, torch.stack([full, full]), masks, torch.stack([maps, maps]))


@pytest.mark.parametrize(("lines", "found"), [(0, 0), (5, 5), (7, 7)])
def test_without_enough_calibration_lines_the_error_says_how_many_and_what_to_do(
    full: Tensor, maps: Tensor, lines: int, found: int
):
    few = torch.zeros(1, SIZE)
    few[:, 1:8:2] = 1
    few[:, SIZE // 2 - lines // 2 : SIZE // 2 - lines // 2 + lines] = 1
    message = refusal(ValueError, full * few)
    assert "fully sampled centre of at least 8 samples along every axis" in message
    assert f"has (24, {found})" in message if found else ", 0)" in message
    assert "give coil maps" in message
    make_batch(full * few, maps=maps)
