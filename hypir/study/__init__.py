"""Comparing methods with people's marks: `python -m hypir rate` and `python -m hypir study`."""
