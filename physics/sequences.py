"""Tissues of the head and the pulse sequences that turn them into contrast.

Times are in milliseconds, flip angles in degrees, proton density is relative to water.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tissue:
    """One tissue: name, relaxation times [ms] and proton density relative to water."""

    name: str
    t1: float
    t2: float
    proton_density: float


# Rounded literature values at 3 T, in label order. Brain: between Wansapura et al., JMRI 1999,
# and Stanisz et al., MRM 2005; muscle and blood: Stanisz; fat: de Bazelaire et al., Radiology
# 2004; marrow: Gold et al., AJR 2004; bone and connective tissue (skin, dura): order of magnitude
# of the short-T2 literature. Air has no protons; its times only keep the formulas finite.
BRAIN_TISSUES: tuple[Tissue, ...] = (
    Tissue("air", 1000.0, 1.0, 0.0),
    Tissue("csf", 4200.0, 1500.0, 1.00),
    Tissue("gray", 1500.0, 100.0, 0.84),
    Tissue("white", 900.0, 73.0, 0.71),
    Tissue("deep gray", 1250.0, 80.0, 0.79),
    Tissue("bone", 250.0, 0.5, 0.25),
    Tissue("marrow", 400.0, 100.0, 0.60),
    Tissue("fat", 380.0, 90.0, 0.85),
    Tissue("connective", 900.0, 30.0, 0.65),
    Tissue("muscle", 1410.0, 45.0, 0.78),
    Tissue("blood", 1930.0, 200.0, 0.90),
)


@dataclass(frozen=True)
class SpinEcho:
    """A 90-180 spin echo, spoiled between repetitions (Bernstein, Handbook of MRI, 14.3).

    Args:
        repetition_time: [ms], longer than the echo time.
        echo_time: [ms], not negative.

    Raises:
        ValueError: if the times are not as above.
    """

    repetition_time: float
    echo_time: float

    def __post_init__(self) -> None:
        _check_times(self.repetition_time, self.echo_time)

    def signal(self, t1: Tensor, t2: Tensor, proton_density: Tensor) -> Tensor:
        """Steady-state signal of tissues with these properties, broadcast; times in ms."""
        longitudinal = 1 - _refocused(self, t1)
        return proton_density * longitudinal * torch.exp(-self.echo_time / t2)


@dataclass(frozen=True)
class SpoiledGradientEcho:
    """A gradient echo with ideal spoiling (Ernst equation; Bernstein, Handbook of MRI, 14.1).

    Args:
        repetition_time: [ms], longer than the echo time.
        echo_time: [ms], not negative.
        flip_angle: [degrees], above 0 and below 180.

    Raises:
        ValueError: if the parameters are not as above.
    """

    repetition_time: float
    echo_time: float
    flip_angle: float

    def __post_init__(self) -> None:
        _check_times(self.repetition_time, self.echo_time)
        _check_flip_angle(self.flip_angle)

    def signal(self, t1: Tensor, t2: Tensor, proton_density: Tensor) -> Tensor:
        """Steady-state signal, broadcast; times in ms, ``t2`` the one of the free decay (T2*)."""
        flip = math.radians(self.flip_angle)
        e1 = torch.exp(-self.repetition_time / t1)
        transverse = math.sin(flip) * (1 - e1) / (1 - math.cos(flip) * e1)
        return proton_density * transverse * torch.exp(-self.echo_time / t2)


@dataclass(frozen=True)
class BalancedSSFP:
    """Balanced steady-state free precession on resonance, pulses of alternating sign.

    Bernstein, Handbook of MRI, 14.1; Scheffler and Lehnhardt, Eur Radiol 2003: the transverse
    magnetization is ``sin a (1 - E1) / (1 - (E1 - E2) cos a - E1 E2)`` right after a pulse and
    decays with T2 from there, ``sqrt(E2)`` at the middle of the repetition.

    Args:
        repetition_time: [ms], longer than the echo time.
        echo_time: [ms], not negative.
        flip_angle: [degrees], above 0 and below 180.

    Raises:
        ValueError: if the parameters are not as above.
    """

    repetition_time: float
    echo_time: float
    flip_angle: float

    def __post_init__(self) -> None:
        _check_times(self.repetition_time, self.echo_time)
        _check_flip_angle(self.flip_angle)

    def signal(self, t1: Tensor, t2: Tensor, proton_density: Tensor) -> Tensor:
        """Steady-state signal of tissues with these properties, broadcast; times in ms."""
        flip = math.radians(self.flip_angle)
        e1, e2 = (torch.exp(-self.repetition_time / time) for time in (t1, t2))
        transverse = math.sin(flip) * (1 - e1) / (1 - (e1 - e2) * math.cos(flip) - e1 * e2)
        return proton_density * transverse * torch.exp(-self.echo_time / t2)


@dataclass(frozen=True)
class InversionRecovery:
    """A 180 inversion, then a 90-180 spin echo (Bernstein, Handbook of MRI, 14.2).

    Args:
        repetition_time: [ms], inversion to inversion, longer than inversion plus echo time.
        echo_time: [ms], not negative.
        inversion_time: [ms], inversion to excitation, above 0.

    Raises:
        ValueError: if the times are not as above.
    """

    repetition_time: float
    echo_time: float
    inversion_time: float

    def __post_init__(self) -> None:
        if not self.inversion_time > 0:
            raise ValueError(f"the inversion time must be above 0 ms, got {self.inversion_time}")
        _check_times(self.repetition_time - self.inversion_time, self.echo_time)

    def signal(self, t1: Tensor, t2: Tensor, proton_density: Tensor) -> Tensor:
        """Steady-state signal, broadcast; times in ms. Negative before the null point."""
        longitudinal = 1 - 2 * torch.exp(-self.inversion_time / t1) + _refocused(self, t1)
        return proton_density * longitudinal * torch.exp(-self.echo_time / t2)


def _refocused(sequence: SpinEcho | InversionRecovery, t1: Tensor) -> Tensor:
    """What a repetition loses of full recovery, its 180 coming half an echo time after the 90."""
    after_refocusing = sequence.repetition_time - sequence.echo_time / 2
    return 2 * torch.exp(-after_refocusing / t1) - torch.exp(-sequence.repetition_time / t1)


def _check_times(repetition_time: float, echo_time: float) -> None:
    if not 0 <= echo_time < repetition_time:
        raise ValueError(
            "the echo time must not be negative and must fit in what the repetition time leaves, "
            f"got an echo time of {echo_time} ms in {repetition_time} ms"
        )


def _check_flip_angle(flip_angle: float) -> None:
    if not 0 < flip_angle < 180:
        raise ValueError(f"the flip angle must lie between 0 and 180 degrees, got {flip_angle}")


Sequence = SpinEcho | SpoiledGradientEcho | BalancedSSFP | InversionRecovery

# Typical protocols of 2D brain examinations at 3 T.
BRAIN_SEQUENCES: dict[str, Sequence] = {
    "T1w": SpoiledGradientEcho(repetition_time=250.0, echo_time=4.0, flip_angle=70.0),
    "T2w": SpinEcho(repetition_time=5000.0, echo_time=95.0),
    "PDw": SpinEcho(repetition_time=3000.0, echo_time=15.0),
    "FLAIR": InversionRecovery(repetition_time=9000.0, echo_time=100.0, inversion_time=2500.0),
}
