"""Other packages: their speed beside this one's, and their networks under its strategies."""
