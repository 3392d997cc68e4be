"""What the paper claims of HYPIR, tested at the size of the small model."""
