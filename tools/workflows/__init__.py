"""Writes the templates of workflows/, the blueprint, and their pictures."""
