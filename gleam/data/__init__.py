"""Scans: fully sampled examples, where they come from, and batches made of them."""

from gleam.data.examples import DataError, Example, Source
from gleam.data.loader import Loader
from gleam.data.prepared import PreparedScans, write_scan
from gleam.data.simulated import SimulatedBrains

__all__ = [
    "DataError",
    "Example",
    "Loader",
    "PreparedScans",
    "SimulatedBrains",
    "Source",
    "write_scan",
]
