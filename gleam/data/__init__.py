"""Scans: where they come from, the examples in them, and batches made of those."""

from gleam.data.examples import Example, Source
from gleam.data.loader import Feed, Loader
from gleam.data.readers import find_scans, open_scan
from gleam.data.readers.prepared import write_scan
from gleam.data.scan import DataError, Scan
from gleam.data.simulated import SimulatedSubject
from gleam.data.sources import ScanSource

__all__ = [
    "DataError",
    "Example",
    "Feed",
    "Loader",
    "Scan",
    "ScanSource",
    "SimulatedSubject",
    "Source",
    "find_scans",
    "open_scan",
    "write_scan",
]
