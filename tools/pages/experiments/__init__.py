"""The paper's claims about HYPIR, tested at the size of the small model."""
