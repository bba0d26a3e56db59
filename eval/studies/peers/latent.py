"""Latent diffusion: a UNet on the VAE's latents with cross-attention over the caption's tokens."""

from torch import Tensor

from bridge.text import TextCode
from eval.studies.peers.base import GUIDED, PeerNet, Space, TrainedPeer, Trial, cross_states, net_arguments
from eval.studies.peers.denoise import DenoisingNet
from eval.studies.peers.direct import small_unet


class LatentNet(DenoisingNet):
    """A UNet2DConditionModel on standardised latents. Pictures without captions train it under the null code.

    Args:
        space: What it has to fit.
        widths: See `small_unet`; attention is on every level.
    """

    def __init__(self, space: Space, widths: tuple[int, ...]) -> None:
        shape = space.codec.z_shape
        super().__init__(shape, "v_prediction", clip=False)
        self.codec = space.codec
        self.unet = small_unet(shape[0], shape[1], tuple(widths), len(widths), space.text_dim)

    def leave(self, clean: Tensor) -> Tensor:
        return self.codec.decode(clean)

    def predict(self, noisy: Tensor, t: Tensor, c: TextCode) -> Tensor:
        states, mask = cross_states(c)
        out: Tensor = self.unet(noisy, t, encoder_hidden_states=states, encoder_attention_mask=mask).sample
        return out


class Latent(TrainedPeer):
    """Latent diffusion on the same VAE.

    Source: Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752
    """

    name, uses_vae, settings, tokens = "latent", True, GUIDED, True
    trials = (
        {"learning_rate": 1e-3, "batch_size": 64, "widths": (64, 128)},
        {"learning_rate": 5e-4, "batch_size": 64, "widths": (96, 192)},
        {"learning_rate": 1e-3, "batch_size": 64, "widths": (128,)},
    )

    def build(self, trial: Trial, space: Space) -> PeerNet:
        return LatentNet(space, **net_arguments(trial))
