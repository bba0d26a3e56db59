"""What every mapping family promises: text code and noise in, standardised latents out."""

import abc

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from bridge.guidance import guided
from bridge.text import TextCode


class Mapper(ModelMixin, ConfigMixin, abc.ABC):
    """Small stochastic map from text codes to image latents; the only part trained on pairs.

    The caller draws the noise, one row an example, so that an example depends on its own key alone.

    Attributes:
        z_shape: Shape of one latent.
        text_dim: Dimension of `TextCode.pooled`.
        loss_noise_shape: Standard normal numbers that `loss` takes for one example.
        sample_noise_shape: Standard normal numbers that `sample` takes for one example.
    """

    z_shape: tuple[int, ...]
    text_dim: int
    loss_noise_shape: tuple[int, ...]
    sample_noise_shape: tuple[int, ...]

    @abc.abstractmethod
    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        """Training loss of each example, (B,).

        Args:
            z: Standardised latents, (B, *z_shape).
            c: Codes of B captions; a null code is an example without its caption.
            noise: Standard normal, (B, *loss_noise_shape).
        """

    @abc.abstractmethod
    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """One latent a code, (B, *z_shape).

        Args:
            c: Codes of B captions.
            noise: Standard normal, (B, *sample_noise_shape).
            temperature: Factor on the noise's standard deviation; 0 gives one latent a caption.
        """


class VelocityMapper(Mapper):
    """A mapper that carries noise to latents along a learned velocity.

    Source: Lipman et al. 2023, Flow Matching for Generative Modeling, arXiv:2210.02747
    """

    @abc.abstractmethod
    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """dz_t/dt, (B, *z_shape), at points z_t (B, *z_shape) and times t (B,) in [0, 1], 0 = noise."""

    @torch.no_grad()
    def sample(
        self,
        c: TextCode,
        *,
        noise: Tensor,
        temperature: float = 1.0,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 16,
        negative: TextCode | None = None,
    ) -> Tensor:
        """One latent a code, (B, *z_shape), by Euler steps of equal length.

        Args:
            c: Codes of B captions.
            noise: Standard normal, (B, *z_shape).
            temperature: Factor on the noise's standard deviation.
            guidance_scale: 1 follows the caption as it was learned, more exaggerates what sets it
                apart from no caption (or from `negative`).
            num_inference_steps: Euler steps.
            negative: Codes to move away from, B of them; without them, the null code.
        """
        away = TextCode.null(len(c), self.text_dim).to(noise.device) if negative is None else negative
        z = noise * temperature
        for step in range(num_inference_steps):
            t = torch.full((len(z),), step / num_inference_steps, device=z.device)
            z = z + guided(self.velocity, z, t, c, away, guidance_scale) / num_inference_steps
        return z
