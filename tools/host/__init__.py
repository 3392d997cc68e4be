"""Download and run ComfyUI, and open its page in Chromium."""
