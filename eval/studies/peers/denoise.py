"""Diffusion on diffusers' DDIM scheduler, shared by the peers that predict from noisy data."""

import abc

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from bridge.guidance import guided
from bridge.text import TextCode
from eval.studies.peers.base import Batch, PeerNet, Sampling

TIMES, STEPS = 1000, 25
"""Noise levels in training, and solver steps in sampling."""


class DenoisingNet(PeerNet):
    """A network trained to undo noise, sampled by DDIM without noise of its own.

    Args:
        shape: Shape of one datum.
        prediction: "v_prediction" or "sample" (the clean datum), what `predict` gives.
        clip: Keep the clean datum in [-1, 1] while sampling: right for pixels.

    Source: Ho et al. 2020, arXiv:2006.11239; sampling: Song et al. 2021, arXiv:2010.02502; v: Salimans & Ho 2022,
        arXiv:2202.00512; cosine schedule: Nichol & Dhariwal 2021, arXiv:2102.09672; zero terminal SNR: Lin et al.
        2024, arXiv:2305.08891
    """

    def __init__(self, shape: tuple[int, ...], prediction: str, clip: bool) -> None:
        super().__init__()
        self.noise_shape = shape
        self.scheduler = DDIMScheduler(
            num_train_timesteps=TIMES,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=prediction,
            clip_sample=clip,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        )

    @abc.abstractmethod
    def predict(self, noisy: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """What the scheduler expects, (B, *shape), of noisy data (B, *shape) and noise levels t (B,) long."""

    def enter(self, data: Tensor) -> Tensor:
        """A batch's data as the network wants them, (B, *shape)."""
        return data

    @abc.abstractmethod
    def leave(self, clean: Tensor) -> Tensor:
        """Pictures in [0, 1] of clean data (B, *shape)."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of each prediction, (B,), at uniform noise levels."""
        clean = self.enter(batch.data)
        noise = torch.randn(clean.shape, generator=batch.generator).to(clean.device)
        t = torch.randint(TIMES, (len(clean),), generator=batch.generator).to(clean.device)
        noisy = self.scheduler.add_noise(clean, noise, t)
        target = clean
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(clean, noise, t)
        return (self.predict(noisy, t, batch.c) - target).square().flatten(1).mean(1)

    @torch.no_grad()
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        """See `PeerNet.sample`."""
        self.scheduler.set_timesteps(STEPS)
        away = TextCode.null(len(c), c.pooled.shape[1]).to(noise.device)
        noisy = noise * sampling.temperature
        for step in self.scheduler.timesteps:
            t = torch.full((len(noisy),), int(step), device=noisy.device)
            predicted = guided(self.predict, noisy, t, c, away, sampling.guidance)
            noisy = self.scheduler.step(predicted, int(step), noisy).prev_sample
        return self.leave(noisy)
