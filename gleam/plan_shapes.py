"""The shapes of a training batch, known before its data is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gleam.config import Config, ConfigError
from gleam.data.examples import ENCODED
from gleam.data_config import POINTS, DataConfig, choices

AXES = {"slices": "y,x", "volumes": "z,y,x", "frames": "y,x", "cines": "t,y,x"}


@dataclass(frozen=True)
class BatchShape:
    """Sizes of one training batch, in the layout of :class:`gleam.batch.Batch`.

    Attributes:
        images: in the batch.
        maps: sets of coil maps.
        coils: receive coils.
        space: ``(y, x)``, ``(z, y, x)`` or ``(t, y, x)``.
        maps_space: size 1 along t.
        mask_space: size 1 where masks do not vary.
        axes: the encoded ones.
    """

    images: int
    maps: int
    coils: int
    space: tuple[int, ...]
    maps_space: tuple[int, ...]
    mask_space: tuple[int, ...]
    axes: tuple[int, ...] = ENCODED


def batch_shape(
    config: Config, shape: Sequence[int] | None = None, coils: int | None = None
) -> BatchShape:
    """The shape of the batches that a configuration trains on.

    Args:
        config: of the run.
        shape: size of space to plan for instead; data is not looked at if coils are given too.
        coils: receive coils to plan for instead.

    Raises:
        ConfigError: if the shape has the wrong number of axes, or a size is below one.
        DataError: if the first training scan is needed and cannot be read.
    """
    data = config.data
    if shape is None or coils is None:
        found = _shape_of_data(data)
        coils = found[0] if coils is None else coils
        shape = found[1:] if shape is None else shape
    space = tuple(shape)
    if len(space) != data.ndim or min(*space, coils) < 1:
        raise ConfigError(
            f"the shape must be {AXES[data.items]} for data.items = {data.items}, and sizes and "
            f"coils at least 1, got {','.join(map(str, space))} and {coils} coils"
        )
    space = _cut(data, space)
    still = (1, *space[1:]) if data.items == "cines" else space
    return BatchShape(
        config.training.batch_size, data.map_sets, coils, space, still, _mask_space(data, space)
    )


def _shape_of_data(data: DataConfig) -> tuple[int, ...]:
    """``(coils, *space)`` of the first training example, from the header of its scan.

    Of simulated scans with several numbers of coils, the largest: its batches decide the peak.
    """
    if data.path is None:
        return (max(choices(data.coils)), *(data.size[1:] if data.items == "frames" else data.size))
    from gleam.build import build_source
    from gleam.data.splits import scans_of_splits

    bad = {} if data.skip_bad else None  # type: ignore[var-annotated]
    scans = scans_of_splits(data.path, data.format, bad).get("train")
    if not scans:
        raise ConfigError(
            f"planning reads the size of the first training scan, but {data.path} has none: give "
            "a shape and coils (--shape and --coils) to plan without data"
        )
    return build_source(data, scans[:1]).shapes[0]


def _cut(data: DataConfig, space: tuple[int, ...]) -> tuple[int, ...]:
    """Space of a slab along the readout: z of a volume, y otherwise."""
    if data.slab is None:
        return space
    axis = len(space) - (3 if data.items == "volumes" else 2)
    if data.slab > space[axis]:
        raise ConfigError(f"data.slab = {data.slab} must not exceed the {space[axis]} rows")
    return (*space[:axis], data.slab, *space[axis + 1 :])


def _mask_space(data: DataConfig, space: tuple[int, ...]) -> tuple[int, ...]:
    kinds = choices(data.mask.kind)
    varying = ["kt_variable_density" in kinds, any(kind in POINTS for kind in kinds), True]
    return tuple(
        n if varies else 1 for n, varies in zip(space, varying[-len(space) :], strict=True)
    )
