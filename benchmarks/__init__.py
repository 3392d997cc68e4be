"""Work, time, memory and seams, measured: `nox -s bench`, or `python -m benchmarks [command]`."""
