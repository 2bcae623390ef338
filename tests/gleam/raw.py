"""Raw scans whose coil maps are known, written without our own writer."""

from pathlib import Path

import h5py
import numpy as np

from tests.gleam.readers.layouts import normal, to_kspace

SIZE = (40, 36)


def positions(*space: int) -> list[np.ndarray]:
    """Coordinates from -1 to 1 along every axis."""
    return list(np.meshgrid(*[np.linspace(-1, 1, n) for n in space], indexing="ij"))


def body(*space: int) -> np.ndarray:
    """An ellipsoid with texture, ``space``."""
    axes = positions(*space)
    inside = sum((x / r) ** 2 for x, r in zip(axes, (0.85, 0.8, 0.7), strict=False)) < 1
    return inside * (1 + 0.4 * np.cos(5 * axes[-1] + 2 * axes[0]))


def true_maps(coils: int, *space: int) -> np.ndarray:
    """Smooth sensitivities around the body, root sum of squares 1: ``(coils, *space)``."""
    axes = positions(*space)
    maps = []
    for angle in 2 * np.pi * np.arange(coils) / coils:
        squared = (axes[-1] - 1.3 * np.cos(angle)) ** 2 + (axes[-2] - 1.3 * np.sin(angle)) ** 2
        maps.append(np.exp(-squared / 3 + 1j * (angle + 0.5 * axes[-1] * np.sin(angle))))
    array = np.array(maps)
    return array / np.sqrt((np.abs(array) ** 2).sum(0))


def raw_kspace(
    slices: int = 2, coils: int = 4, space: tuple[int, int] = SIZE, seed: int = 0
) -> np.ndarray:
    """Fully sampled, complex64 ``(slices, coils, y, x)``, with a little noise."""
    images = true_maps(coils, *space) * body(slices + 2, *space)[1:-1, None]
    return (to_kspace(images) + 2e-3 * normal(slices, coils, *space, seed=seed)).astype(
        np.complex64
    )


def raw_volume(slices: int = 24, coils: int = 4, space: tuple[int, int] = (28, 24)) -> np.ndarray:
    """As :func:`raw_kspace`, of a body and coil maps that vary along the slices."""
    images = true_maps(coils, slices, *space) * body(slices, *space)
    noise = 2e-3 * normal(slices, coils, *space)
    return (to_kspace(images).swapaxes(0, 1) + noise).astype(np.complex64)


def put(path: Path, kspace: np.ndarray | None = None, **datasets: np.ndarray) -> Path:
    """A plain HDF5 file with a k-space, by default :func:`raw_kspace`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = raw_kspace() if kspace is None else kspace
        for key, values in datasets.items():
            file[key] = values
    return path
