"""Scans in the formats of the field, each found out from the file itself.

A reader is a :class:`gleam.data.scan.Scan`; :data:`READERS` has them by the name of their format,
in the order in which they are asked whether they recognise a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gleam.data.hdf5 import SUFFIXES as HDF5
from gleam.data.hdf5 import contents, keys_of
from gleam.data.readers.arrays import ArrayScan
from gleam.data.readers.bart import BartScan
from gleam.data.readers.calgary_campinas import CalgaryCampinasScan
from gleam.data.readers.cmrxrecon import CmrxreconScan
from gleam.data.readers.fastmri import FastmriScan
from gleam.data.readers.ismrmrd import IsmrmrdScan
from gleam.data.readers.mridata_fse import MridataFseScan
from gleam.data.readers.nifti import NiftiScan
from gleam.data.readers.prepared import PreparedScan
from gleam.data.readers.skm_tea import SkmTeaScan
from gleam.data.scan import DataError, Scan, name_of

READERS: dict[str, type[Scan]] = {
    reader.format: reader
    for reader in (
        FastmriScan,
        SkmTeaScan,
        CalgaryCampinasScan,
        IsmrmrdScan,
        MridataFseScan,  # only if asked for
        CmrxreconScan,
        PreparedScan,  # takes any HDF5 file with a k-space that none of the above has taken
        BartScan,
        NiftiScan,
        ArrayScan,
    )
}
OTHER_SUFFIXES = {
    "bart": (".cfl",),
    "cmrxrecon": (".mat",),
    "nifti": (".nii", ".nii.gz"),
    "numpy": (".npy", ".npz"),
}


def open_scan(path: str | Path, format: str = "auto", name: str | None = None) -> Scan:
    """The scan in a file; the first, if the format packs several into one.

    Args:
        path: the file.
        format: a name in :data:`READERS`, or auto for the first that recognises the file.
        name: of the scan; made of the file's name if None.

    Raises:
        ValueError: if there is no such format.
        DataError: if there is no such file, or no reader recognises it; says what is in it.
    """
    path = Path(path)
    return _reader(path, format)(path, name)


def scans_in(path: str | Path, format: str = "auto", name: str | None = None) -> list[Scan]:
    """All scans in a file: one, unless the format packs several into it.

    Args and errors as for :func:`open_scan`; scans of one file add to its name what tells them
    apart.
    """
    path = Path(path)
    return list(_reader(path, format).all_of(path, name_of(path) if name is None else name))


def find_scans(
    folder: str | Path, format: str = "auto", bad: dict[Path, str] | None = None
) -> list[Scan]:
    """All scans in a folder and the folders in it, sorted, named by their path in the folder.

    Files without the suffix of a scan, hidden ones and half-written ones are passed over.

    Args:
        folder: to be searched.
        format: a name in :data:`READERS`, or auto for whatever recognises a file.
        bad: takes files that no reader recognises, and why; without it they are an error.

    Raises:
        ValueError: if there is no such format.
        DataError: if there is no such folder or no scan in it, or a file is of no known format.
    """
    folder = Path(folder)
    _check_format(format)
    suffixes = _suffixes(format)
    files = sorted(_files(folder, suffixes)) if folder.is_dir() else []
    if not files:
        found = "no such file in it" if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder} must be a folder with scans, files named *{', *'.join(suffixes)}; found "
            f"{found}"
        )
    scans: dict[str, Scan] = {}
    for path in files:
        try:
            name = (path.relative_to(folder).parent / name_of(path)).as_posix()
            for scan in scans_in(path, format, name):
                other = scans.setdefault(scan.name, scan)
                if other is not scan:
                    raise DataError(f"{path} and {other.path} have one name, {scan.name}: rename")
        except DataError as error:
            if bad is None:
                raise
            bad[path] = str(error)
    return list(scans.values())


def _reader(path: Path, format: str) -> type[Scan]:
    _check_format(format)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if format != "auto":
        return READERS[format]
    for reader in READERS.values():
        if reader.recognises(path):
            return reader
    found = f"a file named {path.suffix or 'without a suffix'}"
    if path.suffix in HDF5:
        contents(path)
        found = f"HDF5 with {sorted(keys_of(path))}"
    raise DataError(
        f"{path} is a scan of no known format: found {found}; known are {', '.join(READERS)}, "
        "and HDF5 files with a complex dataset kspace"
    )


def _check_format(format: str) -> None:
    if format not in ("auto", *READERS):
        raise ValueError(f"scans: choose a format from auto, {', '.join(READERS)}, got {format!r}")


def _suffixes(format: str) -> tuple[str, ...]:
    if format != "auto":
        return OTHER_SUFFIXES.get(format, HDF5)
    others = [suffix for suffixes in OTHER_SUFFIXES.values() for suffix in suffixes]
    return tuple(dict.fromkeys([*HDF5, *others]))


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.name.endswith(suffixes) and path.is_file():
            yield path
