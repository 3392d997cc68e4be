"""Getting and running ComfyUI, and its page in Chromium."""
