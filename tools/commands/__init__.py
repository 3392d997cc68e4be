"""The commands `nox -s restore` and `nox -s ui`."""
