"""Small files in the layouts of the field, written without the library's own code.

Every writer takes k-space in the library's convention, ``(slices, coils, [t,] y, x)``, and stores
it as the format has it, so that a reader must give it back.
"""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

from gleam.data.scan import DataError, Scan

SPACE = (-2, -1)


def refusal(scan: Scan, what: str) -> str:
    """Why an attribute or a method of a scan fails."""
    with pytest.raises(DataError) as caught:
        _ask(scan, what)
    return str(caught.value)


def _ask(scan: Scan, what: str) -> None:
    value = getattr(scan, what)
    if callable(value):
        value()


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Complex Gaussian numbers, complex64."""
    parts = np.random.default_rng(seed).standard_normal((2, *shape))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def to_images(kspace: np.ndarray, axes: tuple[int, ...] = SPACE) -> np.ndarray:
    """Centred orthonormal inverse FFT."""
    moved = np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(moved, axes)


def to_kspace(images: np.ndarray, axes: tuple[int, ...] = SPACE) -> np.ndarray:
    """Centred orthonormal FFT."""
    moved = np.fft.fftn(np.fft.ifftshift(images, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(moved, axes)


def write_hdf5(
    path: Path, datasets: Mapping[str, object], attributes: Mapping[str, object] | None = None
) -> Path:
    """Datasets, in groups where their names have a slash, and attributes of the file."""
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key] = value
        for key, value in (attributes or {}).items():
            file.attrs[key] = value
    return path


def fastmri_header(rows: int, columns: int, padding: tuple[int, int] = (0, 0)) -> str:
    """An ISMRMRD header as fastMRI's knee files have it, pixels of 0.4375 mm."""
    encoded = columns - sum(padding)
    return f"""<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" xmlns:xs="http://www.w3.org/2001/XMLSchema">
 <measurementInformation><protocolName>cor pd</protocolName></measurementInformation>
 <acquisitionSystemInformation>
  <systemVendor>SIEMENS</systemVendor>
  <systemFieldStrength_T>2.893620</systemFieldStrength_T>
 </acquisitionSystemInformation>
 <encoding>
  <encodedSpace>
   <matrixSize><x>{rows}</x><y>{columns}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{0.4375 * rows}</x><y>{0.4375 * columns}</y><z>4.5</z></fieldOfView_mm>
  </encodedSpace>
  <reconSpace>
   <matrixSize><x>{rows // 2}</x><y>{rows // 2}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{0.21875 * rows}</x><y>{0.21875 * rows}</y><z>3</z></fieldOfView_mm>
  </reconSpace>
  <encodingLimits>
   <kspace_encoding_step_1>
    <minimum>0</minimum><maximum>{encoded - 1}</maximum><center>{columns // 2 - padding[0]}</center>
   </kspace_encoding_step_1>
   <slice><minimum>0</minimum><maximum>35</maximum><center>0</center></slice>
  </encodingLimits>
  <trajectory>cartesian</trajectory>
 </encoding>
 <sequenceParameters>
  <TR>2750</TR><TE>27</TE><TI>100</TI><flipAngle_deg>150</flipAngle_deg>
 </sequenceParameters>
</ismrmrdHeader>"""


def write_fastmri(
    path: Path,
    kspace: np.ndarray,
    *,
    header: str | None = None,
    mask: np.ndarray | None = None,
    padding: tuple[int, int] = (0, 0),
) -> Path:
    """A multi-coil knee file, twice oversampled along y; one of the test set with a mask.

    Args:
        path: the file.
        kspace: complex64 ``(slices, coils, y, x)``; columns in the padding must be zero.
        header: the XML; :func:`fastmri_header` if None.
        mask: sampled columns, or None for a file of the training set.
        padding: columns of zero padding on the left and on the right.
    """
    rows, columns = kspace.shape[-2:]
    header = fastmri_header(rows, columns, padding) if header is None else header
    datasets: dict[str, object] = {"kspace": kspace, "ismrmrd_header": header.encode()}
    attributes: dict[str, object] = {"acquisition": "CORPD_FBK", "patient_id": "0123abcd"}
    if mask is None:
        image = np.sqrt((np.abs(to_images(kspace)) ** 2).sum(1)).astype(np.float32)
        image = image[:, rows // 4 : rows // 4 + rows // 2]
        datasets["reconstruction_rss"] = image
        attributes |= {"max": image.max(), "norm": np.linalg.norm(image)}
    else:
        datasets["mask"] = mask
    return write_hdf5(path, datasets, attributes)


def write_skm_tea(path: Path, echoes: list[np.ndarray], maps: np.ndarray | None = None) -> Path:
    """A raw-data file: hybrid k-space of each echo, maps, and the target they give.

    Args:
        path: the file.
        echoes: k-space of each, complex64 ``(slices, coils, y, x)``.
        maps: complex64 ``(slices, maps, coils, y, x)``; random ones if None.
    """
    slices, coils, *space = echoes[0].shape
    maps = normal(slices, 1, coils, *space, seed=99) if maps is None else maps
    targets = [(maps.conj() * to_images(echo)[:, None]).sum(2) for echo in echoes]
    datasets = {
        "kspace": np.stack(echoes, axis=-1).transpose(0, 2, 3, 4, 1),
        "maps": maps.transpose(0, 3, 4, 2, 1),
        "target": np.stack(targets, axis=-1).transpose(0, 2, 3, 4, 1).astype(np.complex64),
        "masks/poisson_4.0x": np.ones([n // 2 for n in space], dtype=bool),
    }
    return write_hdf5(path, datasets)


def write_calgary_campinas(path: Path, kspace: np.ndarray) -> Path:
    """A brain: what ``numpy.fft.ifft2`` makes an image of, real and imaginary parts in turn.

    Args:
        path: the file.
        kspace: complex64 ``(slices, 12, y, x)``, y and x even.
    """
    y, x = np.indices(kspace.shape[-2:])
    images = to_images(kspace) * (-1.0) ** (y + x) / np.sqrt(y.size)
    stored = np.moveaxis(np.fft.fft2(images), 1, -1)
    channels = np.empty((*stored.shape[:3], 2 * stored.shape[3]), dtype=np.float32)
    channels[..., ::2], channels[..., 1::2] = stored.real, stored.imag
    return write_hdf5(path, {"kspace": channels})


def write_cfl(path: Path, values: np.ndarray) -> Path:
    """A pair of files of BART with up to 16 axes in its order."""
    sizes = " ".join(str(n) for n in (*values.shape, *[1] * (16 - values.ndim)))
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{sizes} \n# Command\nphantom -k\n")
    path.write_bytes(values.astype("<c8").tobytes(order="F"))
    return path


def write_bart(path: Path, kspace: np.ndarray, *, volume: bool = False) -> Path:
    """Slices or a cine of BART, or a volume whose readout is not transformed.

    Args:
        path: the ``.cfl`` file.
        kspace: complex64 ``(slices, coils, [t,] y, x)``.
        volume: whether the slices are positions along the readout of a volume.
    """
    if volume:
        return write_cfl(path, to_kspace(kspace, (0,)).transpose(0, 2, 3, 1))
    static = kspace if kspace.ndim == 5 else kspace[:, :, None]
    slices, coils, frames, rows, columns = static.shape
    sizes = [rows, columns, 1, coils, *[1] * 6, frames, 1, 1, slices, 1, 1]
    return write_cfl(path, static.transpose(3, 4, 1, 2, 0).reshape(sizes))
