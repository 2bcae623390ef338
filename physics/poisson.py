"""Search for a variable density Poisson disc of a given acceleration (Bridson, SIGGRAPH 2007)."""

import numpy as np

_SEEDS = 8  # tried one after the other: growth that starts well inside the calibration dies there
_STEPS = 30  # of the bisection
_ATTEMPTS = 30  # to place a neighbour before a sample is given up


def search_poisson(
    region: np.ndarray, acceleration: float, calibration: tuple[int, int], seed: int
) -> np.ndarray:
    """A mask like those of ``sigpy.mri.poisson``, also where that fails for its seed.

    Args:
        region: bool ``(y, x)``, where samples may lie.
        acceleration: number of all positions, sampled or not, for each sample; within 0.1.
        calibration: extents of the fully sampled central block.
        seed: decides the samples; the global random state is neither read nor changed.

    Returns:
        bool ``(y, x)``.

    Raises:
        ValueError: if no such mask is found.
    """
    if acceleration == 1:
        return region
    state = np.random.get_state()  # noqa: NPY002 - without its compiler sigpy seeds the global one
    try:
        for attempt in range(_SEEDS):
            trial = (seed + 1_000_003 * attempt) % 2**32
            mask = _bisect(region, acceleration, calibration, trial)
            if mask is not None:
                return mask
    finally:
        np.random.set_state(state)  # noqa: NPY002
    raise ValueError(
        f"found no Poisson disc of acceleration {acceleration} with a calibration of "
        f"{calibration[0]} x {calibration[1]} on {int(region.sum())} positions of "
        f"{region.shape[0]} x {region.shape[1]}; change one of them"
    )


def _bisect(
    region: np.ndarray, acceleration: float, calibration: tuple[int, int], seed: int
) -> np.ndarray | None:
    """For how fast the discs' radius grows outside the calibration block.

    None where sigpy raises an error or searches for ever.
    """
    from sigpy.mri.samp import _poisson  # slow to import, hence here

    plane = region.shape
    # On an even axis sigpy centres an odd block half a line low: one more line covers it.
    block = tuple(c + (n % 2 == 0 and c % 2) for c, n in zip(calibration, plane, strict=True))
    offsets = [
        np.maximum(np.abs(np.arange(n) - n / 2) - c / 2, 0)
        for n, c in zip(plane, block, strict=True)
    ]
    y, x = (offset / max(offset.max(), 1e-9) for offset in offsets)
    distance = np.sqrt(x**2 + y[:, None] ** 2)
    low, high = 0.0, float(max(plane))
    for _ in range(_STEPS):
        slope = (low + high) / 2
        radii = [np.clip((1 + distance * slope) * n / max(plane), 1, None) for n in plane]
        mask = _poisson(plane[1], plane[0], _ATTEMPTS, radii[1], radii[0], block, seed)
        mask = mask.astype(bool) & region
        samples = mask.sum()
        if abs(mask.size - acceleration * samples) < 0.1 * samples:
            return mask
        if mask.size < acceleration * samples:
            low = slope
        else:
            high = slope
    return None
