"""Writes the pages of docs/ that hold measurements, and the pictures of the help pages."""
