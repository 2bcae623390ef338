"""How tissues of a head look under a pulse sequence: signal and texture."""

import math
from collections.abc import Sequence as Items
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from physics.acquisition import Band, Parameter
from physics.brain_anatomy import TISSUE_INDEX, Tile
from physics.brain_lesions import Lesion
from physics.sequences import (
    BRAIN_SEQUENCES,
    BRAIN_TISSUES,
    InversionRecovery,
    Sequence,
    SpoiledGradientEcho,
)
from physics.texture import Waves, uniform

# Texture: relative standard deviation of a tissue's signal at three scales [mm].
_TEXTURE_SCALES = ((1.5, 6.0), (6.0, 20.0), (20.0, 80.0))
_TEXTURE = {
    "air": (0.0, 0.0, 0.0),
    "csf": (0.02, 0.05, 0.05),
    "gray": (0.04, 0.04, 0.04),
    "white": (0.03, 0.03, 0.04),
    "deep gray": (0.03, 0.06, 0.06),
    "bone": (0.1, 0.1, 0.1),
    "marrow": (0.15, 0.2, 0.2),
    "fat": (0.12, 0.12, 0.15),
    "connective": (0.1, 0.1, 0.15),
    "muscle": (0.12, 0.12, 0.1),
    "blood": (0.1, 0.2, 0.1),
}
_LESION_TEXTURE = (0.05, 0.08, 0.08)

# A lesion's part of a plane, and its share of each point there.
Cover = tuple[Tile, Tensor]


def draw_tissues(generator: torch.Generator) -> Tensor:
    """One subject's t1, t2 [ms] and proton density, float32 ``(3, tissues)``."""
    spread = torch.exp(0.07 * torch.randn(3, len(BRAIN_TISSUES), generator=generator))
    spread[:, TISSUE_INDEX["csf"]] **= 0.3  # nearly water in everybody
    return spread * torch.tensor([(t.t1, t.t2, t.proton_density) for t in BRAIN_TISSUES]).T


def draw_texture(generator: torch.Generator) -> list[Waves]:
    """The fields of one subject's texture, one for each scale."""
    return [Waves.draw(*scale, generator, 64) for scale in _TEXTURE_SCALES]


@dataclass(frozen=True)
class Protocol:
    """One sequence as one site runs it, and what it makes of one subject.

    Attributes:
        sequence: with its parameters [ms, degrees].
        band: of spatial frequencies that the scan keeps.
        signal: of every tissue, and below it the amplitude of its texture at each scale,
            float32 ``(1 + scales, tissues)``.
    """

    sequence: Sequence
    band: Band
    signal: Tensor

    @classmethod
    def draw(cls, contrast: str, tissues: Tensor, generator: torch.Generator) -> "Protocol":
        """A protocol of this contrast for tissues of these properties ``(3, tissues)``."""
        sequence = _vary(BRAIN_SEQUENCES[contrast], generator)
        signal = sequence.signal(*tissues)
        # Flowing blood leaves the slice before a spin echo, and comes in fresh to a gradient echo.
        fresh = (0.5, 2.0) if isinstance(sequence, SpoiledGradientEcho) else (0.0, 0.5)
        signal[TISSUE_INDEX["blood"]] *= uniform(*fresh, generator)
        for tissue in ("fat", "marrow"):  # saturated, or bright as echo trains make it
            signal[TISSUE_INDEX[tissue]] *= uniform(0.1, 1.3, generator)
        amplitudes = torch.tensor([_TEXTURE[tissue.name] for tissue in BRAIN_TISSUES]).T
        strength = torch.tensor([uniform(0.3, 1.7, generator) for _ in amplitudes])
        texture = signal * amplitudes * strength[:, None]
        return cls(sequence, Band.draw(generator), torch.cat((signal[None], texture)))

    def magnetization(
        self, tile: Tile, texture: Tensor, lesions: Items[tuple[Lesion, Cover]]
    ) -> Tensor:
        """Signal of a painted plane.

        Args:
            tile: the plane.
            texture: the fields of :func:`draw_texture` there, float32 ``(scales, y, x)``.
            lesions: those in the plane.

        Returns:
            float32 ``(y, x)``.
        """
        image, *amplitudes = torch.tensordot(self.signal, tile.canvas.fractions, 1)
        for amplitude, wave in zip(amplitudes, texture, strict=True):
            image.addcmul_(amplitude, wave)
        for lesion, (part, share) in lesions:
            properties = torch.tensor([lesion.t1, lesion.t2, lesion.proton_density])
            own = self.sequence.signal(*properties)
            index = tile.index(part)
            varied = 1 + torch.tensordot(
                torch.tensor(_LESION_TEXTURE), texture[(slice(None), *index)], 1
            )
            image[index].lerp_(own * varied, share)
        return image

    def parameters(self) -> dict[str, Parameter]:
        """The sequence's name and parameters [ms, degrees]."""
        return {"sequence": type(self.sequence).__name__, **asdict(self.sequence)}


def _vary(sequence: Sequence, generator: torch.Generator) -> Sequence:
    """The protocol as another site would run it: one that suppresses fluid still does so."""
    changes = {
        name: value * uniform(0.75, 1.25, generator)
        for name, value in asdict(sequence).items()
        if name != "inversion_time"
    }
    if isinstance(sequence, InversionRecovery):
        null = _null(BRAIN_TISSUES[TISSUE_INDEX["csf"]].t1, **changes)
        changes["inversion_time"] = null * uniform(0.97, 1.03, generator)
    return replace(sequence, **changes)


def _null(t1: float, repetition_time: float, echo_time: float) -> float:
    """Inversion time at which tissue of this T1 has no signal; all in ms.

    Solves ``1 - 2 exp(-TI / T1) + 2 exp(-(TR - TE / 2) / T1) - exp(-TR / T1) = 0``, the signal of
    :class:`physics.sequences.InversionRecovery` (Bernstein, Handbook of MRI, 14.2).
    """
    lost = 2 * math.exp(-(repetition_time - echo_time / 2) / t1) - math.exp(-repetition_time / t1)
    return t1 * math.log(2 / (1 + lost))
