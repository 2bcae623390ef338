"""Simulated multi-coil brain scans, one slice a subject, made when first asked for."""

from functools import partial

from gleam.data.examples import Example, stable_seed
from physics.simulate import simulate_brain


class SimulatedBrains:
    """Brains of simulated subjects; each is kept once made.

    Args:
        split: name of the split; the subjects of different splits differ.
        subjects: how many.
        seed: of the whole data set.
        size: image size (y, x).
        coils: receive coils.
        contrast: one of the simulator's, or None for all.
        noise: noise level as in :func:`physics.simulate.simulate_brain`, or None to draw it.
        calibration: side of the k-space block that coil maps are estimated from.
        map_sets: ESPIRiT map sets.
    """

    def __init__(
        self,
        split: str,
        subjects: int,
        seed: int,
        size: tuple[int, int] = (128, 128),
        coils: int = 8,
        contrast: str | None = None,
        noise: float | None = None,
        calibration: int = 24,
        map_sets: int = 1,
    ) -> None:
        self.scans = [f"{split}-{number:04d}" for number in range(subjects)]
        self._seed = seed
        self._simulate = partial(
            simulate_brain, size=size, coils=coils, contrast=contrast, noise=noise
        )
        self._prepare = partial(Example.from_kspace, calibration=calibration, map_sets=map_sets)
        self._made: dict[int, Example] = {}

    def __len__(self) -> int:
        """Number of subjects."""
        return len(self.scans)

    def __getitem__(self, index: int) -> Example:
        """The slice of subject ``index``."""
        if index not in self._made:
            name = self.scans[index]
            scan = self._simulate(stable_seed(self._seed, name))
            self._made[index] = self._prepare(scan.kspace, name)
        return self._made[index]
