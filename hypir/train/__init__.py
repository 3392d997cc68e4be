"""Training of HYPIR weights with diffusers, peft and accelerate.

recipes     what to train, as frozen records, and the functions that give the known ones
data        pictures with captions, the degradation pool; dead_leaves makes pictures from nothing
models      the base model, its autoencoder and text encoders; small random ones
generator   the one step through the adapted network, to pixels
...and one file per stage: autoencoder, prior, encoder, adversarial. The arrow points one way: this
package imports hypir, and nothing in hypir imports it.
"""
