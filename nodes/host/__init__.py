"""The only code that touches comfy internals: models, autoencoders, the step, memory.

Everything runs on the host's own patchers and through its memory management: nothing is moved to a
device by hand, nothing is kept between calls, and the models handed in are never changed.
"""
