"""Measurements of computation, time, memory and seams: `nox -s bench`."""
