"""The trained rivals: diffusion on pixels and on latents, a prior, an invertible network, and ours.

All train pictures without captions under the null code, as classifier-free guidance does with dropped captions.
"""

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, PriorTransformer, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from zuko.distributions import DiagNormal
from zuko.lazy import Flow, UnconditionalDistribution

from bridge.guidance import guided
from bridge.mappers import FlowMatchingMapper, LocalFlowMapper, Mapper, NormalizingFlowMapper, VelocityMapper
from bridge.text import TextCode
from eval.studies.compare.base import (
    GUIDED,
    PLAIN,
    TOKENS,
    Batch,
    LocalSampling,
    Peer,
    PeerNet,
    Sampling,
    Space,
    TrainedPeer,
    Trial,
    net_arguments,
)

TIMES, DDIM_STEPS = 1000, 25  # Noise levels in training, and solver steps in sampling
FLOW_STEPS = 16
HEADS = 4
GRID = 8
"""Side of the grid that windows are given on; on another they cover the same share of a picture."""
LOCAL = (LocalSampling(), LocalSampling(window=(1.5, 1.3)), LocalSampling(window=(1.5, 1.3), perplexity=24.0))
"""What a local flow chooses from: the default, smaller parts, smaller parts of more pictures."""


class DenoisingNet(PeerNet):
    """A network trained to undo noise on data (B, *shape), sampled by DDIM without noise of its own.

    `prediction`, "v_prediction" or "sample" (the clean datum), is what `predict` gives; `clip` keeps the clean datum
    in [-1, 1] while sampling: right for pixels.

    Source: Ho et al. 2020, arXiv:2006.11239; sampling: Song et al. 2021, arXiv:2010.02502; v: Salimans & Ho 2022,
        arXiv:2202.00512; cosine schedule: Nichol & Dhariwal 2021, arXiv:2102.09672; zero terminal SNR: Lin et al.
        2024, arXiv:2305.08891
    """

    def __init__(self, space: Space, shape: tuple[int, ...], prediction: str, clip: bool = False) -> None:
        super().__init__()
        self.codec, self.noise_shape = space.codec, shape
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

    def leave(self, clean: Tensor) -> Tensor:
        """Pictures in [0, 1] of clean data (B, *shape)."""
        return self.codec.decode(clean)

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
        self.scheduler.set_timesteps(DDIM_STEPS)
        away = TextCode.null(len(c), c.pooled.shape[1]).to(noise.device)
        noisy = noise * sampling.temperature
        for step in self.scheduler.timesteps:
            t = torch.full((len(noisy),), int(step), device=noisy.device)
            predicted = guided(self.predict, noisy, t, c, away, sampling.guidance)
            noisy = self.scheduler.step(predicted, int(step), noisy).prev_sample
        return self.leave(noisy)


class UNet(DenoisingNet):
    """A UNet2DConditionModel with one layer a level, and cross-attention on the `attend` lowest levels.

    `widths` are the channels of its levels, each halving the side; multiples of 8. It works on squares of `fold`
    positions, folded into channels: that loses nothing and learns nothing, every number is seen and predicted.
    """

    def __init__(
        self, space: Space, shape: tuple[int, ...], widths: tuple[int, ...], attend: int, fold: int, clip: bool
    ) -> None:
        super().__init__(space, shape, "v_prediction", clip)
        self.fold, channels = fold, shape[0] * fold**2
        shallow = len(widths) - attend
        self.unet = UNet2DConditionModel(
            sample_size=shape[1] // fold,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(widths),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * shallow + ("CrossAttnDownBlock2D",) * attend,
            up_block_types=("CrossAttnUpBlock2D",) * attend + ("UpBlock2D",) * shallow,
            mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=space.text_dim,
            attention_head_dim=HEADS,  # diffusers takes it for the number of heads
            norm_num_groups=8,
        )

    def predict(self, noisy: Tensor, t: Tensor, c: TextCode) -> Tensor:
        # What attention reads: the pooled code at unit variance, then the tokens; a null code is one zero state.
        states = torch.cat([c.pooled[:, None] * math.sqrt(c.pooled.shape[1]), c.tokens], dim=1)
        mask = F.pad(c.mask, (1, 0), value=True)
        folded = F.pixel_unshuffle(noisy, self.fold)
        out = self.unet(folded, t, encoder_hidden_states=states, encoder_attention_mask=mask).sample
        return F.pixel_shuffle(out, self.fold)


class DirectNet(UNet):
    """A UNet on pixels, folded so that a CPU can follow: to a side of `grid`, at most a picture's own."""

    def __init__(self, space: Space, grid: int, widths: tuple[int, ...]) -> None:
        side = space.codec.image_size
        grid = min(grid, side)
        if side % grid:
            raise ValueError(f"grid: {grid} does not divide pictures of {side} pixels; give a divisor")
        super().__init__(space, (3, side, side), widths, 1, side // grid, clip=True)

    def enter(self, data: Tensor) -> Tensor:
        return data * 2 - 1

    def leave(self, clean: Tensor) -> Tensor:
        return (clean / 2 + 0.5).clamp(0, 1)


class Direct(TrainedPeer):
    """The direct way: pixel diffusion with cross-attention over pooled code and tokens, no latent space anywhere.

    Source: Ho et al. 2020, arXiv:2006.11239; Saharia et al. 2022 (Imagen), arXiv:2205.11487
    """

    name, net, uses_vae, settings, tokens = "direct", DirectNet, False, GUIDED, True
    trials: tuple[Trial, ...] = (
        {"learning_rate": 1e-3, "batch_size": 32, "grid": 16, "widths": (64, 128)},
        {"learning_rate": 1e-3, "batch_size": 16, "grid": 32, "widths": (32, 64, 96)},
        {"learning_rate": 1e-3, "batch_size": 16, "grid": 16, "widths": (48, 96)},
    )


class DirectPlateau(Direct):
    """The same, run on until its validation loss stops improving: what more time would buy it."""

    name, plateau, follows = "direct_plateau", True, "direct"


class LatentNet(UNet):
    """A UNet on standardised latents, with attention on every level."""

    def __init__(self, space: Space, widths: tuple[int, ...]) -> None:
        super().__init__(space, space.codec.z_shape, widths, len(widths), 1, clip=False)


class Latent(TrainedPeer):
    """Latent diffusion on the same VAE.

    Source: Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752
    """

    name, net, settings, tokens = "latent", LatentNet, GUIDED, True
    trials = (
        {"learning_rate": 1e-3, "batch_size": 64, "widths": (64, 128)},
        {"learning_rate": 5e-4, "batch_size": 64, "widths": (96, 192)},
        {"learning_rate": 1e-3, "batch_size": 64, "widths": (128,)},
    )


class PriorNet(DenoisingNet):
    """Text tokens, pooled code, time and the noisy latent in one sequence; the clean latent comes out.

    With `patch` the latent's whole side it is one token, causal, read off a last learned one, as in the paper. With a
    smaller `patch` it is a token for every square, without a mask (padding is zero). `heads` have 64 features each.
    """

    def __init__(self, space: Space, patch: int, layers: int, heads: int) -> None:
        shape = space.codec.z_shape
        super().__init__(space, shape, "sample")
        self.patch, squares = patch, (shape[1] // patch) ** 2
        self.whole = squares == 1
        self.text_scale = math.sqrt(space.text_dim)
        self.tokens = nn.Linear(space.text_dim, heads * 64)
        self.transformer = PriorTransformer(
            num_attention_heads=heads,
            attention_head_dim=64,
            num_layers=layers,
            embedding_dim=shape[0] * patch**2,
            num_embeddings=TOKENS,
            additional_embeddings=4 if self.whole else 2 + squares,
            embedding_proj_dim=space.text_dim,
            encoder_hid_proj_type=None,
            added_emb_type="prd" if self.whole else None,
        )

    def predict(self, noisy: Tensor, t: Tensor, c: TextCode) -> Tensor:
        missing = TOKENS - c.mask.shape[1]
        tokens, mask = F.pad(c.tokens, (0, 0, 0, missing)), F.pad(c.mask, (0, missing))
        flat = F.pixel_unshuffle(noisy, self.patch).flatten(2).transpose(1, 2)
        out = self.transformer(
            flat,
            t,
            proj_embedding=c.pooled * self.text_scale,
            encoder_hidden_states=self.tokens(tokens) * mask[..., None],
            attention_mask=mask if self.whole else None,
        ).predicted_image_embedding
        folded = out.view_as(flat).transpose(1, 2).unflatten(2, (noisy.shape[2] // self.patch, -1))
        return F.pixel_shuffle(folded, self.patch)


class Prior(TrainedPeer):
    """DALL-E 2's diffusion prior, on VAE latents instead of CLIP codes.

    Source: Ramesh et al. 2022, Hierarchical Text-Conditional Image Generation with CLIP Latents, arXiv:2204.06125
    """

    name, net, settings, tokens = "prior", PriorNet, GUIDED, True
    trials = (
        {"learning_rate": 5e-4, "batch_size": 64, "patch": 8, "layers": 6, "heads": 6},
        {"learning_rate": 5e-4, "batch_size": 64, "patch": 2, "layers": 6, "heads": 4},
        {"learning_rate": 1e-3, "batch_size": 64, "patch": 2, "layers": 4, "heads": 4},
    )


class InvertibleNet(PeerNet):
    """The coupling blocks of `NormalizingFlowMapper` on a plain embedding of the text code, without jitter.

    There is no guidance; the temperature is chosen instead. `blocks` are the mapper's `transforms`.
    """

    def __init__(self, space: Space, blocks: int, hidden: int, condition: int = 128, bins: int = 0) -> None:
        super().__init__()
        self.codec, self.text_scale = space.codec, math.sqrt(space.text_dim)
        self.noise_shape = (math.prod(space.codec.z_shape),)
        self.text = nn.Sequential(nn.Linear(space.text_dim, condition), nn.SiLU(), nn.Linear(condition, condition))
        shape, (dim,) = (space.codec.z_shape, space.text_dim), self.noise_shape
        couplings = NormalizingFlowMapper(*shape, "coupling", blocks, hidden, condition, bins).flow.transform
        # The base by these names, which checkpoints have.
        base = UnconditionalDistribution(DiagNormal, loc=torch.zeros(dim), scale=torch.ones(dim), buffer=True)
        self.flow = Flow(couplings, base)

    def embed(self, c: TextCode) -> Tensor:
        out: Tensor = self.text(c.pooled * self.text_scale)
        return out

    def loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood in nats a dimension, (B,)."""
        z = batch.data.flatten(1)
        out: Tensor = -self.flow(self.embed(batch.c)).log_prob(z) / z.shape[1]
        return out

    @torch.no_grad()
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        z = self.flow(self.embed(c)).transform.inv(noise * sampling.temperature)
        return self.codec.decode(z.unflatten(1, self.codec.z_shape))


class Invertible(TrainedPeer):
    """Exact likelihood from text code to image latent, in the manner of net2net.

    Source: Rombach et al. 2020, Network-to-Network Translation with Conditional Invertible Neural Networks,
        arXiv:2005.13580; splines: Durkan et al. 2019, arXiv:1906.04032
    """

    name, net, settings = "invertible", InvertibleNet, PLAIN
    trials = (
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 12, "hidden": 512},
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 20, "hidden": 384},
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 8, "hidden": 384, "bins": 8},
    )


class MapperNet(PeerNet):
    """One of the bridge's mapping families with its codec; `arguments` are the mapper's, beside its shapes."""

    def __init__(self, space: Space, family: type[Mapper], arguments: Trial) -> None:
        super().__init__()
        self.codec = space.codec
        self.mapper: Mapper = family(space.codec.z_shape, space.text_dim, **arguments)
        self.noise_shape = self.mapper.sample_noise_shape

    def loss(self, batch: Batch) -> Tensor:
        noise = torch.randn(len(batch.data), *self.mapper.loss_noise_shape, generator=batch.generator)
        return self.mapper.loss(batch.data, batch.c, noise=noise.to(batch.data.device))

    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        guidance: dict[str, Any] = {}
        if isinstance(self.mapper, VelocityMapper):
            guidance = {"guidance_scale": sampling.guidance, "num_inference_steps": FLOW_STEPS}
        elif sampling.guidance != 1:
            raise ValueError(f"guidance: {type(self.mapper).__name__} has none; leave it at 1")
        return self.codec.decode(self.mapper.sample(c, noise=noise, temperature=sampling.temperature, **guidance))


class MapperPeer(TrainedPeer):
    family: type[Mapper]  # The mapper's class

    def build(self, trial: Trial, space: Space) -> PeerNet:
        return MapperNet(space, self.family, net_arguments(trial))


class BridgeFlow(MapperPeer):
    """Ours: conditional flow matching by a modulated perceptron; pooled codes only."""

    name, family, settings = "bridge_flow", FlowMatchingMapper, GUIDED
    trials = (
        {"learning_rate": 1e-3, "batch_size": 256},
        {"learning_rate": 1e-3, "batch_size": 256, "dropout": 0.1},
        {"learning_rate": 7e-4, "batch_size": 256, "width": 768, "hidden": 1536},
    )


class LocalNet(PeerNet):
    """A local flow over a memory of latents with their codec, or of pixels without one."""

    def __init__(self, space: Space, mapper: LocalFlowMapper, pixels: bool = False) -> None:
        super().__init__()
        self.codec, self.mapper, self.pixels, self.noise_shape = space.codec, mapper, pixels, mapper.z_shape
        self._varied: dict[Sampling, LocalFlowMapper] = {}

    def loss(self, batch: Batch) -> Tensor:
        raise TypeError("a local flow is not trained")

    def varied(self, sampling: Sampling) -> LocalFlowMapper:
        """The flow with a sampling's window, on its own grid, and perplexity; one for each sampling."""
        assert isinstance(sampling, LocalSampling)
        if sampling not in self._varied:
            finer = self.noise_shape[-1] / GRID if len(self.noise_shape) > 1 else 1
            window = tuple(s * finer for s in sampling.window)
            self._varied[sampling] = self.mapper.varied(window=window, perplexity=sampling.perplexity)
        return self._varied[sampling]

    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        z = self.varied(sampling).sample(c, noise=noise, num_inference_steps=FLOW_STEPS)
        return (z / 2 + 0.5).clamp(0, 1) if self.pixels else self.codec.decode(z)


class LocalFlow(Peer):
    """Ours without training: the closed form of flow matching over a memory, local and weighed by caption.

    Pictures without captions are of no use to it.
    """

    name, settings = "local_flow", LOCAL

    def remember(self, data: Tensor, codes: Tensor, captions: Sequence[Sequence[int]], space: Space) -> PeerNet:
        """A network that draws, over pairs as `Material.pairs` gives them."""
        data = data if self.uses_vae else data * 2 - 1
        return LocalNet(space, LocalFlowMapper.from_memory(data, codes, captions), not self.uses_vae)


class LocalPixels(LocalFlow):
    """The same on pixels: the closed form without a latent space."""

    name, uses_vae = "local_pixels", False
