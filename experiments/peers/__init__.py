"""Other packages' networks and loops, trained by this library's strategies."""
