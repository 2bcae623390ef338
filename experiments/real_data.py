"""Real scans for the experiments, and simulated k-space of real images that come as magnitudes.

The folder of the data holds, any of them for those who read no other:

- ``mc_brain_T2_4ch.mat``: an axial T2-weighted slice of a head, coil images ``(256, 256, 4)``,
  fully sampled (from the gpuNUFFT project, MIT licence).
- ``vol_FLAIR_1mm.nii.gz``: a FLAIR volume of a head, 1 mm, magnitudes (from py_synthsr,
  Apache-2.0).
- ``chest_brain_admmnet_256.npz``: cardiac and chest slices of many subjects behind two brains,
  ``(102, 256, 256)``, magnitudes (from Deep-ADMM-Net, MIT licence).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gleam.data import open_scan
from gleam.data.examples import generator
from physics.acquisition import background_phase
from physics.fourier import fft
from physics.receive import CoilArray, add_noise, coil_maps

SIMULATED = "simulated coils and phase"
T2, FLAIR, CHEST = "T2 brain", f"FLAIR head, {SIMULATED}", f"chest, {SIMULATED}"
SLAB = f"FLAIR head in 3D, {SIMULATED}"
FILES = {T2: "t2_brain", FLAIR: "flair", SLAB: "flair_3d", CHEST: "chest"}
BRAIN_MASKS = 3  # for the one T2 slice
HEAD_SLICES = 4
CHEST_SLICES = 6
PLANES = 16  # of the slab; with fewer, its 3D coil maps are poor
SNR = 100.0  # as a NIfTI file's
COILS = 8
PIXEL = 1.4  # of the chests, whose files do not say [mm]
MARGIN = 15.0  # between the field of view and the coils [mm]


@dataclass(frozen=True)
class Case:
    """One fully sampled image and the seed of its masks.

    Attributes:
        data_set: :data:`T2`, :data:`FLAIR`, :data:`CHEST` or :data:`SLAB`.
        name: which image of it.
        kspace: complex64 ``(coils, y, x)`` or ``(coils, z, y, x)``, encoded along y and x.
        seed: of the undersampling masks.
        pictured: whether it is the one of its data set that is drawn.
    """

    data_set: str
    name: str
    kspace: Tensor
    seed: int
    pictured: bool

    @property
    def ndim(self) -> int:
        """Number of axes of the image."""
        return self.kspace.ndim - 1


def slices(folder: Path) -> Iterator[Case]:
    """The 2D cases: the T2 brain under three masks, slices of the head and of chests.

    Slices are evenly spread over the head and over the file of chests; nobody picked them.
    """
    brain = read_brain(folder)
    for seed in range(BRAIN_MASKS):
        yield Case(T2, f"mask {seed}", brain, seed, seed == BRAIN_MASKS // 2)
    head = open_scan(folder / "vol_FLAIR_1mm.nii.gz")
    step = head.shape[0] // (HEAD_SLICES + 1)
    for seed in range(HEAD_SLICES):
        place = (seed + 1) * step
        kspace = torch.from_numpy(head.kspace(slice(place, place + 1)))[0]
        yield Case(FLAIR, f"slice {place}", kspace, seed, seed == HEAD_SLICES // 2)
    chests = read_chests(folder)
    for seed in range(CHEST_SLICES):
        place = seed * len(chests) // CHEST_SLICES
        kspace = simulate_chest(chests[place], place)
        yield Case(CHEST, f"slice {place}", kspace, seed, seed == CHEST_SLICES // 2)


def slab(folder: Path) -> Case:
    """The planes in the middle of the head, ``(coils, z, y, x)``, the readout along z."""
    head = open_scan(folder / "vol_FLAIR_1mm.nii.gz")
    first = (head.shape[0] - PLANES) // 2
    kspace = torch.from_numpy(head.kspace(slice(first, first + PLANES)))
    name = f"planes {first} to {first + PLANES - 1}"
    return Case(SLAB, name, kspace.movedim(1, 0).contiguous(), seed=0, pictured=True)


def read_brain(folder: Path) -> Tensor:
    """Fully sampled k-space ``(4, 256, 256)`` of the T2-weighted slice."""
    from scipy.io import loadmat

    images = torch.from_numpy(loadmat(folder / "mc_brain_T2_4ch.mat")["img"])
    return fft(images.movedim(-1, 0).contiguous().to(torch.complex64))


def read_chests(folder: Path) -> np.ndarray:
    """Magnitudes ``(100, 256, 256)`` of the cardiac and chest slices."""
    content = np.load(folder / "chest_brain_admmnet_256.npz")
    return content[content.files[0]][2:]


def simulate_chest(magnitude: np.ndarray, number: int) -> Tensor:
    """K-space ``(8, y, x)`` of a magnitude image, made as that of a NIfTI file.

    Args:
        magnitude: ``(y, x)``; its 95th percentile over the pixels above its mean becomes 1.
        number: decides phase, coils and noise.
    """
    y, x = ((torch.arange(n) - n // 2) * PIXEL for n in magnitude.shape)
    axes = torch.zeros(1), y, x
    image = torch.from_numpy(magnitude / np.percentile(magnitude[magnitude > magnitude.mean()], 95))
    phase = background_phase(axes, generator("chest phase", number))[0]
    array = CoilArray(COILS, semi_axes=(-y[0].item() + MARGIN, -x[0].item() + MARGIN))
    maps = coil_maps(axes, array, generator("chest coils", number))[0][:, 0]
    kspace = fft(maps * torch.polar(image.float(), phase))
    return add_noise(kspace, 1 / SNR, generator("chest noise", number))
