"""Generators of the pages in docs/ with measurements, and of the images on the help pages."""
