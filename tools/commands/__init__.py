"""What `nox -s restore` and `nox -s ui` do."""
