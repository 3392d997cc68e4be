"""Work, time, memory and seams, measured: `nox -s bench`."""
