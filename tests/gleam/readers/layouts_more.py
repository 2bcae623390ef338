"""Tiny files in the true layouts of ISMRMRD, CMRxRecon and NIfTI, written without our readers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import ismrmrd
import nibabel
import numpy as np


def centred_fft(image: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Centred orthonormal FFT by numpy, in double precision."""
    axes = tuple(axes)
    shifted = np.fft.fftn(np.fft.ifftshift(image, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(shifted, axes)


def centred_ifft(kspace: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The inverse of :func:`centred_fft`."""
    axes = tuple(axes)
    shifted = np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(shifted, axes)


def noise_of(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Complex Gaussian numbers, complex64."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal((*shape, 2), dtype=np.float32)
    return np.ascontiguousarray(draw).view(np.complex64)[..., 0]


def mrd_header(
    matrix: Sequence[int],
    *,
    recon_matrix: Sequence[int] | None = None,
    fov: Sequence[float] | None = None,
    recon_fov: Sequence[float] | None = None,
    limits: dict[str, tuple[int, int, int]] | None = None,
    trajectory: str = "cartesian",
    acceleration: int = 1,
    user: dict[str, int] | None = None,
    protocol: str = "",
) -> str:
    """The XML header as converters write it; matrices and fields of view along x, y, z."""
    fov = fov or [float(n) for n in matrix]
    parts = [
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">',
        protocol,
        "<experimentalConditions><H1resonanceFrequency_Hz>127728000</H1resonanceFrequency_Hz>",
        "</experimentalConditions><encoding>",
        _mrd_space("encodedSpace", matrix, fov),
        _mrd_space("reconSpace", recon_matrix or matrix, recon_fov or fov),
        "<encodingLimits>",
        *(
            f"<{key}><minimum>{low}</minimum><maximum>{high}</maximum>"
            f"<center>{centre}</center></{key}>"
            for key, (low, high, centre) in (limits or {}).items()
        ),
        f"</encodingLimits><trajectory>{trajectory}</trajectory>",
        f"<parallelImaging><accelerationFactor><kspace_encoding_step_1>{acceleration}"
        "</kspace_encoding_step_1><kspace_encoding_step_2>1</kspace_encoding_step_2>"
        "</accelerationFactor></parallelImaging>",
        "</encoding><sequenceParameters><TR>1550</TR><TE>25</TE>",
        "<flipAngle_deg>90</flipAngle_deg></sequenceParameters><userParameters>",
        *(
            f"<userParameterLong><name>{name}</name><value>{value}</value></userParameterLong>"
            for name, value in (user or {}).items()
        ),
        "</userParameters></ismrmrdHeader>",
    ]
    return "".join(parts)


def _mrd_space(name: str, size: Sequence[int], extent: Sequence[float]) -> str:
    cells = "".join(f"<{a}>{n}</{a}>" for a, n in zip("xyz", size, strict=True))
    lengths = "".join(f"<{a}>{n}</{a}>" for a, n in zip("xyz", extent, strict=True))
    return (
        f"<{name}><matrixSize>{cells}</matrixSize>"
        f"<fieldOfView_mm>{lengths}</fieldOfView_mm></{name}>"
    )


def mrd_acquisition(
    data: np.ndarray, flags: Iterable[int] = (), **fields: int
) -> ismrmrd.Acquisition:
    """One readout ``(coils, samples)``; fields are counters or entries of the head."""
    acquisition = ismrmrd.Acquisition.from_array(np.asarray(data, np.complex64))
    acquisition.center_sample = data.shape[1] // 2
    for flag in flags:
        acquisition.setFlag(flag)
    for name, value in fields.items():
        setattr(acquisition.idx if hasattr(acquisition.idx, name) else acquisition, name, value)
    return acquisition


def mrd_acquisitions(kspace: np.ndarray, **fields: int) -> list[ismrmrd.Acquisition]:
    """A readout for every line of k-space ``(slices, coils, t, z, y, x)``, x the readout."""
    slices, _, frames, partitions, lines, _ = kspace.shape
    return [
        mrd_acquisition(
            kspace[s, :, t, z, y], slice=s, phase=t, kspace_encode_step_2=z,
            kspace_encode_step_1=y, **fields,
        )
        for t, z, y, s in np.ndindex(frames, partitions, lines, slices)
    ]  # fmt: skip


def write_ismrmrd(
    path: Path,
    kspace: np.ndarray | None = None,
    acquisitions: Iterable[ismrmrd.Acquisition] | None = None,
    header: str | None = None,
) -> None:
    """An ISMRMRD file, by the ismrmrd package.

    Args:
        path: the new file.
        kspace: complex ``(slices, coils, t, z, y, x)``, x the readout; random by default.
        acquisitions: by default every line of ``kspace``.
        header: XML; by default that of ``kspace``.
    """
    kspace = noise_of((2, 3, 1, 1, 10, 12)) if kspace is None else kspace
    with ismrmrd.Dataset(str(path), mode="w") as file:
        file.write_xml_header(header or mrd_header(kspace.shape[:-4:-1]))
        for acquisition in mrd_acquisitions(kspace) if acquisitions is None else acquisitions:
            file.append_acquisition(acquisition)


def write_cmrxrecon(
    path: Path,
    kspace: np.ndarray | None = None,
    key: str = "kspace_full",
    dtype: type = np.float32,
) -> None:
    """A CMRxRecon file as MATLAB writes it with ``save -v7.3``.

    MATLAB's arrays are column-major and HDF5's row-major, so a MATLAB array ``A(i, j, ..., n)``
    lies in the file with the same bytes and its axes reversed.

    Args:
        path: the new file.
        kspace: as in MATLAB, complex ``(nx, ny, coils, slices, frames)``; random by default.
        key: name of the variable.
        dtype: of the real and of the imaginary parts.
    """
    kspace = noise_of((12, 10, 3, 2, 4)) if kspace is None else kspace
    stored = np.empty(kspace.shape[::-1], [("real", dtype), ("imag", dtype)])
    column_major = kspace.flatten(order="F")
    stored["real"] = column_major.real.reshape(stored.shape)
    stored["imag"] = column_major.imag.reshape(stored.shape)
    with h5py.File(path, "w", userblock_size=512) as file:
        chunks = (1, 1, *stored.shape[2:]) if stored.ndim == 5 else None
        data = file.create_dataset(key, data=stored, chunks=chunks, compression="gzip")
        data.attrs["MATLAB_class"] = np.bytes_("single" if dtype is np.float32 else "double")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(124)
    with path.open("r+b") as raw:
        raw.write(header + b"\x00\x02IM")


def write_nifti(
    path: Path, volume: np.ndarray | None = None, affine: np.ndarray | None = None
) -> None:
    """A NIfTI file, by nibabel.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        volume: as nibabel has it, ``(i, j, k)`` or ``(i, j, k, t)``; a ball by default.
        affine: from indices to mm, ``(4, 4)``; by default 10 mm cubes, axes along R, A, S.
    """
    if volume is None:
        i, j, k = np.ogrid[-8:8, -9:9, -3:4]
        volume = np.uint8(100) * (i**2 + j**2 + 4 * k**2 < 49).astype(np.uint8)
    affine = np.diag([10.0, 10.0, 10.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
