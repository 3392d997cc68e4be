"""What the project needs beside the pack."""
