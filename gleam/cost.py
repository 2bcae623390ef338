"""How long work takes: a sum of what each kind of it takes at a steady rate."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from operator import add, sub


@dataclass
class Work:
    """What a training step computes.

    Attributes:
        convolutions: floating-point operations of convolutions and matrix products.
        transforms: those of Fourier transforms, ``5 n log2 n`` each.
        moved: bytes that all other operations read and write.
        operations: how many operations there are.
        transferred: bytes sent between device and host, meanwhile.
    """

    convolutions: float = 0.0
    transforms: float = 0.0
    moved: float = 0.0
    operations: float = 0.0
    transferred: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: Work) -> Work:
        """What is left of this without the other."""
        return Work(*map(sub, astuple(self), astuple(other)))


@dataclass(frozen=True)
class Machine:
    """Rates of a machine.

    Attributes:
        convolutions: floating-point operations a second in convolutions and matrix products.
        transforms: the same in Fourier transforms.
        bandwidth: bytes a second that all other operations read and write.
        overhead: seconds that each operation takes besides.
        bus: bytes a second between device and host.
    """

    convolutions: float
    transforms: float
    bandwidth: float
    overhead: float
    bus: float

    def seconds(self, work: Work) -> float:
        """Predicted time; good for ratios between strategies, not in itself."""
        computing = (
            work.convolutions / self.convolutions
            + work.transforms / self.transforms
            + work.moved / self.bandwidth
            + work.operations * self.overhead
        )
        return max(computing, work.transferred / self.bus)


MACHINES = {
    # Least squares over 54 measured steps, one thread of a server processor, torch 2.13.
    "cpu": Machine(convolutions=1e11, transforms=6e10, bandwidth=9e10, overhead=6e-6, bus=math.inf),
    # What data sheets let expect of a data-centre card; not measured.
    "cuda": Machine(convolutions=4e13, transforms=2e12, bandwidth=1.2e12, overhead=1e-5, bus=2e10),
}
