"""The settings of the unrolled network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gleam.data_config import Count, Positive, Section
from models.unrolled import LARGEST_INVERTIBLE_STEP


class NetworkConfig(Section):
    """The unrolled network."""

    step: Literal["pgd", "modl"] = "pgd"
    """Proximal gradient (arXiv 2207.08393) or MoDL (arXiv 1712.02862)."""
    steps: Count = 8
    """Unrolled iterations."""
    shared: bool = False
    """One set of weights for all steps."""
    features: Count = 32
    """Width of the CNN."""
    hidden: Annotated[int, Field(ge=0)] = 0
    """Learned complex channels that a step hands on beside the image."""
    regularizer: Literal["cnn", "residual", "coupling"] = "cnn"
    """The CNN of the step's paper; or an invertible one, for strategy invertible."""
    convolution: Literal["full", "separable"] = "full"
    """3x3x3 in 3D; or in two factors, over (y, x) and over t or z."""
    padding: Literal["zeros", "reflect"] = "zeros"
    step_size: Positive | None = None
    """First step size of pgd, learned; if none 1, or 0.45 with an invertible regularizer."""
    weight: Positive | None = None
    """First lambda of modl, learned; if none 0.05, or 0.25 with an invertible regularizer."""
    cg_iterations: Count | None = None
    """Conjugate-gradient iterations of modl; if none 10, or 100 with an invertible regularizer."""
    mixed_precision: bool = False
    """Run the CNN, not the physics, in bfloat16."""

    @model_validator(mode="after")
    def _regularizer_fits(self) -> NetworkConfig:
        if self.regularizer == "cnn":
            return self
        if (self.step_size or 0) >= LARGEST_INVERTIBLE_STEP:
            raise ValueError(
                f"step_size must be below {LARGEST_INVERTIBLE_STEP} with the regularizer "
                f"{self.regularizer}, got {self.step_size}"
            )
        if self.padding != "zeros":
            raise ValueError(f"the regularizer {self.regularizer} pads with zeros only")
        if self.mixed_precision:
            raise ValueError(
                f"mixed_precision is not for the regularizer {self.regularizer}: "
                "bfloat16 cannot be inverted to the accuracy that gradients need"
            )
        return self
