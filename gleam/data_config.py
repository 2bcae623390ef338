"""Settings of the data: where scans come from, what is made of them, how they are undersampled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gleam.data.estimate import SMALLEST_CALIBRATION, calibration_extent

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Acceleration = Annotated[float, Field(ge=1)]
Anatomy = Literal["brain", "knee", "heart"]
Kind = Literal[
    "random_columns",
    "equispaced_columns",
    "uniform_random",
    "poisson_disc",
    "kt_variable_density",
]
AVERAGE_CALIBRATION = 24
POINTS = ("uniform_random", "poisson_disc")
CONTRASTS = {"brain": ("T1w", "T2w", "PDw", "FLAIR"), "knee": ("PD", "PDFS"), "heart": ()}
ITEMS_OF = {
    "brain": ("slices", "volumes"),
    "knee": ("slices", "volumes"),
    "heart": ("frames", "cines", "slices"),
}


def choices(value: Any) -> list[Any]:
    """The values of a setting that may be one value or a list of them."""
    return value if isinstance(value, list) else [value]


class Section(BaseModel):
    """Base of all sections: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MaskConfig(Section):
    """How k-space is undersampled."""

    kind: Kind | Annotated[list[Kind], Field(min_length=1)] = "random_columns"
    """One, or several of which each example draws one, at every visit in training."""
    acceleration: Acceleration | Annotated[list[Acceleration], Field(min_length=1)] = 4.0
    """One value, or several of which each example draws one, at every visit in training."""
    calibration: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = 24
    """Fully sampled central lines, or their share; coil maps are estimated from them, those of
    kt_variable_density from 24 lines of the average over time."""
    shutter: bool = False
    """Leave out the corners of k-space (uniform_random and poisson_disc)."""
    partial_fourier: Annotated[float, Field(gt=0.5, le=1)] = 1.0
    """Share of the columns that is sampled at all."""


class DataConfig(Section):
    """Where scans come from, and what is made of them."""

    path: Path | None = None
    """Folder of scans with train/, validate/ and test/, or a splits.yaml; simulated if none."""
    format: Literal[
        "auto",
        "prepared",
        "fastmri",
        "ismrmrd",
        "mridata_fse",
        "cmrxrecon",
        "skm_tea",
        "calgary_campinas",
        "bart",
        "nifti",
        "numpy",
    ] = "auto"
    """Format of the files; found out for each if auto."""
    skip_bad: bool = False
    """Leave out scans that cannot be read, and list them at the end, instead of stopping."""
    items: Literal["slices", "volumes", "frames", "cines"] = "slices"
    """What an image is: (y, x) or (z, y, x) of static scans, (y, x) or (t, y, x) of dynamic."""
    anatomy: Anatomy | Annotated[list[Anatomy], Field(min_length=1)] = "brain"
    """Simulated scans: one, or several of which each subject is one. A heart gives frames, cines
    or, as slices, a single frame of each subject; the others slices and volumes."""
    size: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] = (128, 128)
    """Simulated scans: (y, x); (z, y, x) of volumes; (t, y, x) of hearts."""
    coils: Count | Annotated[list[Count], Field(min_length=1)] = 8
    """Simulated scans: receive coils, or several numbers of which each subject has one."""
    contrast: Literal["T1w", "T2w", "PDw", "FLAIR", "PD", "PDFS"] | None = None
    """Simulated scans: of a brain the first four, of a knee the last two; all of them if none."""
    snr: Annotated[float, Field(gt=0, allow_inf_nan=True)] | None = None
    """Simulated scans: 95th percentile of the image over the noise; drawn for each if none."""
    train: Count = 48
    """Simulated scans: subjects to train on."""
    validate_on: Count = 8
    """Simulated scans: subjects to choose the best checkpoint with."""
    test: Count = 8
    """Simulated scans: subjects to evaluate on."""
    map_method: Literal["espirit", "jsense", "low_resolution"] = "espirit"
    """How coil maps are estimated that a scan comes without."""
    map_sets: Annotated[int, Field(ge=1, le=2)] = 1
    """Coil-map sets."""
    map_crop: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] | None = None
    """Where maps are zero: below this ESPIRiT eigenvalue, or share of the brightest pixel for the
    other methods; auto: found from the data. If none, 0.8 for ESPIRiT and auto for the others."""
    slab: Count | None = None
    """Train on this many positions of the fully sampled readout, a random slab."""
    cache: Positive = 2.0
    """Read and estimated examples to keep in memory, in GiB, for each process that loads them."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load ahead of training; 0 loads between its steps."""
    mask: MaskConfig = MaskConfig()

    @property
    def ndim(self) -> int:
        """Number of axes of an image."""
        return 3 if self.items in ("volumes", "cines") else 2

    @property
    def map_calibration(self) -> int | float:
        """Central lines that coil maps are estimated from, or their share.

        Those of the mask, but for ky-t sampling: it has other lines in every frame, and the average
        over time, from which maps come, has far more in the centre than one frame.
        """
        if choices(self.mask.kind) == ["kt_variable_density"]:
            return AVERAGE_CALIBRATION
        return self.mask.calibration

    @model_validator(mode="after")
    def _masks_fit(self) -> DataConfig:
        for kind in choices(self.mask.kind):
            if kind == "kt_variable_density" and self.items != "cines":
                raise ValueError(f"mask.kind = {kind} needs items = cines, got {self.items}")
            if self.slab and self.items != "volumes" and kind in POINTS:
                raise ValueError(f"slab needs a fully sampled readout, which {kind} has not")
        if self.path is None:
            self._simulation_fits()
        return self

    def _simulation_fits(self) -> None:
        for anatomy in choices(self.anatomy):
            fitting = ITEMS_OF[anatomy]
            if self.items not in fitting:
                raise ValueError(
                    f"anatomy = {anatomy} needs items = {' or '.join(fitting)}, got {self.items}"
                )
            known = CONTRASTS[anatomy]
            if self.contrast is not None and self.contrast not in known:
                raise ValueError(
                    f"contrast must be {' or '.join(known or ('none',))} for "
                    f"anatomy = {anatomy}, got {self.contrast}"
                )
        axes = {"slices": "(y, x)", "volumes": "(z, y, x)"}.get(self.items, "(t, y, x)")
        if len(self.size) != axes.count(",") + 1:
            raise ValueError(f"size must be {axes} for items = {self.items}, got {self.size}")
        rows = self.size[0] if self.items == "volumes" else self.size[-2]
        if self.slab and self.slab > rows:
            raise ValueError(f"slab = {self.slab} must not exceed the {rows} rows of size")
        if calibration_extent(self.map_calibration, self.size[-2:]) < SMALLEST_CALIBRATION:
            raise ValueError(
                f"mask.calibration = {self.mask.calibration} must give at least "
                f"{SMALLEST_CALIBRATION} lines: coil maps are estimated from it"
            )
