"""Training modules at the same time: workers, what they share, and what travels between them."""
