"""Pictures of any size, with alpha and in batches, through the whole graph."""

from __future__ import annotations

import torch

LARGEST, STRIP = 300, 12


def size(random) -> tuple[int, int]:
    """Mostly any size up to the largest; every fourth a strip, every tenth a few pixels."""
    height, width = random.randint(1, LARGEST), random.randint(1, LARGEST)
    kind = random.random()
    if kind < 0.125:
        return random.randint(1, STRIP), width
    if kind < 0.25:
        return height, random.randint(1, STRIP)
    if kind < 0.35:
        return random.randint(1, STRIP), random.randint(1, STRIP)
    return height, width


def wrong_with(result, image, alpha: bool) -> list[str]:
    wrong = []
    if result.shape != image.shape:
        return [f"the result is {tuple(result.shape)}"]
    if not torch.isfinite(result).all():
        wrong.append("values that are not finite")
    elif result.min() < 0 or result.max() > 1:
        wrong.append(f"values from {result.min()} to {result.max()}")
    if alpha and not torch.equal(result[..., 3:], image[..., 3:]):
        wrong.append("another alpha")
    return wrong


def test_sizes(campaign, run, sd2, vae, prompt, photo):
    record = campaign("sizes")
    random = record.random
    smallest, largest, pixels = (LARGEST, LARGEST), (1, 1), 0
    while record.done < record.asked:
        height, width = size(random)
        count, alpha = random.choice((1, 1, 2, 3)), random.random() < 0.5
        tile = random.choice((0, 0, 128))
        fix = random.choice(("wavelet", "adain", "none"))
        top, left = random.randint(0, 512 - height), random.randint(0, 512 - width)
        image = photo[:, top : top + height, left : left + width].expand(count, -1, -1, -1)
        if alpha:
            image = torch.cat([image, torch.rand(count, height, width, 1)], dim=-1)
        says = f"{count} of {width} x {height} px, alpha {alpha}, tile_size {tile}, {fix}"
        try:
            latent = run("HYPIREncode", image, vae, tile_size=tile)
            restored = run("HYPIRRestore", sd2, prompt, latent, tile_size=tile)
            result = run("HYPIRDecode", restored, vae, image, fix, tile_size=tile)
            # of a latent alone the result has no alpha
            bare = run("HYPIRDecode", restored, vae, tile_size=tile)
            wrong = wrong_with(result, image, alpha) + wrong_with(bare, image[..., :3], False)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        for problem in wrong:
            record.find(problem, says)
        strip = min(height, width) <= STRIP
        tiles = "one tile" if not tile else "tiles of 128 px"
        record.tried(f"{'strip or dot' if strip else 'picture'}, {tiles}")
        smallest = min(smallest, (height, width), key=lambda s: s[0] * s[1])
        largest = max(largest, (height, width), key=lambda s: s[0] * s[1])
        pixels += height * width * count
        record.facts["smallest and largest"] = "{} x {} and {} x {} px".format(*smallest, *largest)
        record.facts["pixels in all"] = f"{pixels / 1e6:.1f} million"
    record.end()
