"""Which acquisitions of an ISMRMRD file make the image, and where their samples belong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gleam.data.readers.ismrmrd_header import Encoding, MrdHeader
from gleam.data.readers.sampling import sampling
from gleam.data.scan import DataError

_COUNTERS = (
    "kspace_encode_step_1", "kspace_encode_step_2", "slice", "contrast", "phase", "repetition",
    "set",
)  # fmt: skip
_LINE = ("number_of_samples", "active_channels", "discard_pre", "discard_post", "center_sample")
_FIELDS = ("flags", "encoding_space_ref", "idx", *_LINE)


@dataclass(frozen=True)
class Layout:
    """Where samples go. Every array over acquisitions has one entry for each imaging one.

    Attributes:
        rows: which rows of the dataset they are, ascending.
        places: int32 ``(4, acquisitions)``: slice, frame, and index along steps 2 and 1.
        turns: int32, how many acquisitions of the same line come before each.
        weights: float32, one over the number of acquisitions of the same line, negative where
            the sign of the line must be changed.
        backwards: bool, readouts that must be flipped.
        lines: which were acquired, bool ``(frames, step 2, step 1)``, the same for all slices.
        slices: how many, 1 if 3D.
        noise: rows of the noise measurements.
        window: the first sample used, the one behind the last, and the echo's.
        sizes: samples along the readout, lines along steps 1 and 2, echo and centre on ``n // 2``.
        coils: number of receive channels.
        contrasts, sets: how many there are in the file; the first of them is what is read.
    """

    rows: np.ndarray
    places: np.ndarray
    turns: np.ndarray
    weights: np.ndarray
    backwards: np.ndarray
    lines: np.ndarray
    slices: int
    noise: np.ndarray
    window: tuple[int, int, int]
    sizes: tuple[int, int, int]
    coils: int
    contrasts: int
    sets: int

    @property
    def is_3d(self) -> bool:
        """Whether there are two phase encodings."""
        return self.sizes[2] > 1

    @property
    def start(self) -> int:
        """Index along the readout of the first sample used."""
        first, _, echo = self.window
        return self.sizes[0] // 2 - echo + first

    @property
    def interleaved(self) -> bool:
        """Whether most acquisitions between the first and the last of a slice are of others."""
        rows = self.rows[self.places[0] == 0]
        return bool(rows[-1] - rows[0] + 1 > 2 * len(rows))

    @property
    def undersampled(self) -> bool:
        """Whether lines are missing inside the part of k-space that was acquired."""
        return sampling(self.lines[None])[1]


def plan(heads: np.ndarray, header: MrdHeader, where: str) -> Layout:
    """Sort the acquisitions of a file, given the ``head`` of each, by their flags and counters.

    Raises:
        DataError: if nothing is there to make an image of, or they do not fit together; begins
            with ``where``, which names file and dataset.
    """
    _check_fields(heads.dtype, where)
    imaging, noise, backwards = _roles(heads)
    if not imaging.any():
        raise DataError(f"{where}: none of its {len(heads)} acquisitions is an imaging one")
    contrasts, sets = (np.unique(heads["idx"][name][imaging]) for name in ("contrast", "set"))
    imaging &= (heads["idx"]["contrast"] == contrasts[0]) & (heads["idx"]["set"] == sets[0])
    rows = np.flatnonzero(imaging)
    window, coils = _window(heads[rows], backwards[rows], where)
    if (heads["active_channels"][noise] != coils).any():
        raise DataError(f"{where}: noise measurements must have {coils} coils, as the image has")
    places, shape, signs = _places(heads["idx"][rows], header, where)
    flat = np.ravel_multi_index(tuple(places), shape)
    counts = np.bincount(flat, minlength=math.prod(shape))
    lines = (counts > 0).reshape(shape)
    _check_lines(lines, where)
    first, stop, echo = window
    readout = _size(header.encodings[0].size, echo - first, stop - 1 - echo)
    return Layout(
        rows=rows,
        places=places,
        turns=_turns(flat),
        weights=(signs / counts[flat]).astype(np.float32),
        backwards=backwards[rows],
        lines=lines[0],
        slices=len(lines),
        noise=np.flatnonzero(noise),
        window=window,
        sizes=(readout, shape[3], shape[2]),
        coils=coils,
        contrasts=len(contrasts),
        sets=len(sets),
    )


def _places(
    idx: np.ndarray, header: MrdHeader, where: str
) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """Slice, frame, and index along steps 2 and 1; how many of each there are; and signs."""
    slices = np.unique(idx["slice"], return_inverse=True)[1]
    frames = np.unique(_frames(idx, where), return_inverse=True)[1]
    _, *steps = header.encodings
    (one, lines), (two, partitions) = (
        _step(idx[f"kspace_encode_step_{number}"], step, f"{where}, kspace_encode_step_{number}")
        for number, step in enumerate(steps, 1)
    )
    signs = _signs(one - lines // 2, steps[0]) * _signs(two - partitions // 2, steps[1])
    shape = (int(slices.max()) + 1, int(frames.max()) + 1, partitions, lines)
    return np.stack((slices, frames, two, one)).astype(np.int32), shape, signs


def _check_fields(dtype: np.dtype, where: str) -> None:
    found = set(dtype.names or ())
    found |= set((dtype["idx"].names or ()) if "idx" in found else ())
    missing = sorted({*_FIELDS, *_COUNTERS} - found)
    if missing:
        raise DataError(f"{where}: the heads of its acquisitions lack {', '.join(missing)}")


def _signs(index: np.ndarray, step: Encoding) -> np.ndarray:
    """+1, or alternating where the header asks for it; the index is 0 at the centre."""
    return 1 - 2 * (index % 2) * int(step.chopped)


def _turns(flat: np.ndarray) -> np.ndarray:
    """For every entry, how many equal ones come before it."""
    order = np.argsort(flat, kind="stable")
    _, starts, counts = np.unique(flat[order], return_index=True, return_counts=True)
    turns = np.empty(len(flat), np.int32)
    turns[order] = np.arange(len(flat)) - np.repeat(starts, counts)
    return turns


def _flagged(heads: np.ndarray, *flags: int) -> np.ndarray:
    """Which acquisitions carry any of these flags (numbered from 1, as in the standard)."""
    bits = np.uint64(sum(1 << (flag - 1) for flag in flags))
    return (heads["flags"] & bits) != 0


def _roles(heads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Imaging acquisitions, noise measurements, and readouts that run backwards."""
    import ismrmrd

    noise = _flagged(heads, ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    other = _flagged(
        heads,
        ismrmrd.ACQ_IS_NAVIGATION_DATA,
        ismrmrd.ACQ_IS_PHASECORR_DATA,
        ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
        ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
        ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
        ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION,
    )
    calibration = _flagged(heads, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    both = _flagged(heads, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    imaging = ~(noise | other | (calibration & ~both)) & (heads["encoding_space_ref"] == 0)
    return imaging, noise, _flagged(heads, ismrmrd.ACQ_IS_REVERSE)


def _window(heads: np.ndarray, reverse: np.ndarray, where: str) -> tuple[tuple[int, int, int], int]:
    """Samples to use and echo, once reversed readouts are flipped, and the number of coils."""
    samples, coils, before, after, echo = (heads[name].astype(int) for name in _LINE)
    for name, values in (("samples", samples), ("coils", coils)):
        found = np.unique(values)
        if len(found) > 1 or found[0] == 0:
            raise DataError(
                f"{where}: all imaging acquisitions must have the same number of {name}, at least "
                f"one, found {found.tolist()}"
            )
    echo = np.where(echo == 0, samples // 2, echo)  # 0 means that the converter left it out
    first, stop = np.where(reverse, after, before), samples - np.where(reverse, before, after)
    windows = np.unique(np.stack((first, stop, echo)), axis=1).T.tolist()
    low, end, centre = windows[0]
    if len(windows) > 1 or not low <= centre < end:
        raise DataError(
            f"{where}: all imaging acquisitions must have the same discard_pre, discard_post and "
            f"center_sample, with the centre among the {samples[0]} samples that are kept, found "
            f"(first, end, centre) = {windows}"
        )
    return (low, end, centre), int(coils[0])


def _size(least: int, below: int, above: int) -> int:
    """Smallest n that holds so many samples below and above the one on ``n // 2``."""
    return max(least, 2 * below, 2 * above + 1)


def _step(counters: np.ndarray, step: Encoding, where: str) -> tuple[np.ndarray, int]:
    """Index of every line, and the number of lines, so that the centre lies on ``n // 2``."""
    lowest, highest = int(counters.min()), int(counters.max())
    # Headers count from 0 or from 1, so one more line than announced is nothing strange.
    if highest > max(step.size, step.maximum + 1):
        raise DataError(
            f"{where}: counters run to {highest}, but the header announces {step.size} lines"
        )
    centre = max(step.size, highest + 1) // 2 if step.centre is None else step.centre
    if not lowest <= centre <= highest:
        raise DataError(
            f"{where}: the centre of k-space, {centre}, must be among the lines acquired, "
            f"{lowest} .. {highest}"
        )
    size = _size(step.size, centre - lowest, highest - centre)
    return counters.astype(int) - centre + size // 2, size


def _frames(counters: np.ndarray, where: str) -> np.ndarray:
    """The counter of time: the cardiac phase, or the repetition where there is only one phase."""
    phase, repetition = counters["phase"], counters["repetition"]
    if np.ptp(phase) and np.ptp(repetition):
        raise DataError(
            f"{where}: holds several cardiac phases and several repetitions; only one of them can "
            "be the axis of time: split the file"
        )
    return phase if np.ptp(phase) else repetition


def _check_lines(lines: np.ndarray, where: str) -> None:
    slices, _, partitions, _ = lines.shape
    if slices > 1 and partitions > 1:
        raise DataError(f"{where}: holds {slices} slabs of a 3D acquisition: split it into files")
    if (lines != lines[0]).any():
        numbers = lines.reshape(slices, -1).sum(1)
        raise DataError(
            f"{where}: all slices must have the same lines, found {numbers.min()} .. "
            f"{numbers.max()} of {lines[0].size}"
        )
