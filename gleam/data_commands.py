"""The commands about data: ``gleam prepare | check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from gleam.data.check import Checked
    from gleam.data.prepare import Prepared

console = Console(soft_wrap=True, markup=False)
INTERRUPTED = 130  # exit code after Ctrl-C

Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes; one for each core if not given.")
]
Format = Annotated[str, typer.Option(help="Of the files; auto finds out for each.")]


def prepare(
    source: Annotated[Path, typer.Argument(help="A scan, or a folder that is searched for scans.")],
    out: Annotated[Path, typer.Argument(help="Folder for the prepared scans, outside SOURCE.")],
    maps: Annotated[
        str, typer.Option(help="Coil maps: espirit, jsense or low_resolution.")
    ] = "espirit",
    sets: Annotated[int, typer.Option(help="Sets of coil maps; several by ESPIRiT only.")] = 1,
    calibration: Annotated[
        int, typer.Option(help="Largest side of the k-space block that maps come from.")
    ] = 24,
    crop: Annotated[
        str | None,
        typer.Option(help="Where maps are zero: auto, or below a number such as 0.8 (ESPIRiT's)."),
    ] = None,
    volume: Annotated[
        bool | None,
        typer.Option(
            "--volume/--slices", help="Maps in 3D or by slices; 3D if the acquisition is."
        ),
    ] = None,
    coils: Annotated[
        int | None, typer.Option(help="Compress to so many virtual coils.", show_default="all")
    ] = None,
    compression: Annotated[str, typer.Option(help="svd or geometric.")] = "svd",
    covariance: Annotated[
        Path | None,
        typer.Option(help=".npy file, noise covariance (coils, coils); else from noise samples."),
    ] = None,
    format: Format = "auto",
    workers: Workers = None,
) -> None:
    """Make raw scans ready for training: prewhitened, compressed, with coil maps and targets.

    Stop it at any time (Ctrl-C, or even kill -9) and run it again: what is done is skipped. A
    file that cannot be used is listed at the end and the others are prepared all the same. Coil
    maps and targets that come with a file (SKM-TEA, NIfTI) are estimated anew.
    """
    from gleam.data.prepare import PrepareSettings
    from gleam.data.prepare import prepare as prepare_scans
    from gleam.files import read_array

    settings = PrepareSettings(
        maps, sets, calibration, _number_or_auto(crop), volume, coils, compression
    )
    noise = None if covariance is None else read_array(covariance)
    with _Bar("preparing") as bar:
        found = prepare_scans(
            source,
            out,
            settings,
            covariance=noise,
            format=format,
            workers=workers,
            started=bar.start,
            done=bar.advance,
        )
    _show_prepared(found)
    failed = [scan for scan in found if scan.status == "failed"]
    console.print(f"{len(found) - len(failed)} of {len(found)} scans are ready in {out}")
    if failed:
        raise typer.Exit(1)


def check(
    folder: Annotated[
        Path, typer.Argument(help="Data set: scans, train/ validate/ test/, or a splits.yaml.")
    ],
    format: Format = "auto",
    workers: Workers = None,
) -> None:
    """Read a whole data set and say what is fine and what is not.

    Finds files that cannot be read, samples that are missing or not finite, parts that do not fit
    each other, and scans that are in two splits. The exit code is 1 if anything is wrong.
    """
    from gleam.data.check import check as check_scans

    with _Bar("checking") as bar:
        found = check_scans(
            folder, format=format, workers=workers, started=bar.start, done=bar.advance
        )
    _show_checked(found)
    wrong = sum(bool(scan.problems) for scan in found)
    console.print(f"{len(found) - wrong} of {len(found)} scans in {folder} are fine")
    if wrong:
        raise typer.Exit(1)


class _Bar:
    """A progress bar, on a terminal only; says how to go on after Ctrl-C."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._bar = Progress(
            TextColumn(verb),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(verb, total=None, last="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if kind is KeyboardInterrupt:
            console.print(f"{self._verb} was stopped; run the same command again to go on")
            raise typer.Exit(INTERRUPTED) from None

    def start(self, count: int) -> None:
        self._bar.update(self._task, total=count)

    def advance(self, scan: Prepared | Checked) -> None:
        self._bar.update(self._task, advance=1, last=scan.name)


def _show_prepared(scans: Sequence[Prepared]) -> None:
    table = _table("scan", "slices", "coils", "shape", "energy kept", "seconds", "status")
    for scan in scans:
        numbers = ["", "", "", "", ""]
        if scan.shape:
            slices, coils, *space = scan.shape
            numbers = [str(slices), str(coils), _size(space), f"{scan.energy:.4f}"]
            numbers += [f"{scan.seconds:.1f}" if scan.status == "prepared" else ""]
        table.add_row(*map(Text, (scan.name, *numbers, scan.status)))
    console.print(table)
    for scan in scans:
        if scan.note:
            console.print(f"{scan.name} {scan.status}: {scan.note}", highlight=False)


def _show_checked(scans: Sequence[Checked]) -> None:
    split = any(scan.split for scan in scans)
    table = _table("scan", *(["split"] if split else []), "format", "shape", "what is wrong")
    for scan in scans:
        wrong = "\n".join(text.removeprefix(str(scan.path)).lstrip(",: ") for text in scan.problems)
        cells = [scan.name, *([scan.split] if split else []), scan.format, _size(scan.shape)]
        table.add_row(*map(Text, cells), Text(wrong or "fine", "red" if wrong else "green"))
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _number_or_auto(text: str | None) -> float | Literal["auto"] | None:
    if text is None or text == "auto":
        return "auto" if text else None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--crop must be auto or a number, got {text!r}") from None
