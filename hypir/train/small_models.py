"""Networks and autoencoders of the real classes, small, with random weights."""

from torch import nn

from hypir.priors import Prior


def small_network(prior_name: str, width: int) -> nn.Module:
    """Network of a prior's class; `width`: of a UNet, a multiple of 64."""
    return _SMALL[prior_name](width)


def tiny_network(depth: int = 3) -> nn.Module:
    """SD3-class transformer of the tiny recipe: width 64 x depth, position table 32x32."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=depth,
        joint_attention_dim=64,
        caption_projection_dim=64 * depth,
        pooled_projection_dim=64,
        pos_embed_max_size=32,
        qk_norm="rms_norm",
    )


def tiny_vae() -> nn.Module:
    """Autoencoder of the tiny recipe: TAESD layout, 16 channels; its latents are scaled ones."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny(latent_channels=16)
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            # torch's own start shrinks the signal at each of the layers without bias.
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in vae.modules():
        if type(block).__name__ == "AutoencoderTinyBlock":
            nn.init.zeros_(block.conv[-1].weight)  # a block starts as identity
    for half in (vae.encoder, vae.decoder):
        half.layers[-1].weight.data.mul_(0.3)
    vae.decoder.layers[-1].bias.data.fill_(0.5)  # mid grey
    return vae


def _small_unet(width: int) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(width, width),
        layers_per_block=1,
        attention_head_dim=width // 64,  # diffusers means the number of heads
        cross_attention_dim=1024,
        use_linear_projection=True,
    )


def _small_sdxl(width: int) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(width, width, width),
        layers_per_block=2,
        attention_head_dim=width // 64,
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _small_flux(_width: int) -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=128,
        num_attention_heads=2,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def small_vae(prior: Prior) -> nn.Module:
    """AutoencoderKL with the latents of a prior, 1 M parameters."""
    from diffusers import AutoencoderKL

    quant = prior.latent_channels == 4
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=prior.latent_channels,
        scaling_factor=prior.latent_scale,
        shift_factor=prior.latent_shift or None,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    )


_SMALL = {
    "sd2": _small_unet,
    "sd2-v": _small_unet,
    "sdxl": _small_sdxl,
    "sd3": lambda _width: tiny_network(2),
    "flux": _small_flux,
}
