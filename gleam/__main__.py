"""``python -m gleam``, the same as ``gleam``."""

from gleam.cli import main

main()
