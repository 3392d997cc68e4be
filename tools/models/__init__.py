"""The files of the small model in models/, and stand-ins for real weights."""
