"""The plan of a run (`--dry-run`): what it costs, counted without weights and without computing."""
