"""The networks under comparison, what each promises, and the peers: networks with trials and ways to sample.

Diffusion on pixels and on latents, a prior, an invertible network, ours, local flows, retrieval and ridge. All that
train see pictures without captions under the null code, as classifier-free guidance does with dropped captions.
"""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, PriorTransformer, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from zuko.distributions import DiagNormal
from zuko.lazy import Flow, UnconditionalDistribution

from bridge.codecs import ImageCodec
from bridge.guidance import guided
from bridge.mappers import FlowMatchingMapper, LocalFlowMapper, Mapper, NormalizingFlowMapper, VelocityMapper
from bridge.noise import generator_for
from bridge.text import TextCode
from eval import baselines
from eval.baselines import Baselines
from eval.data import caption_number
from eval.judge import Generate

TOKENS = 16  # Tokens of a caption that are kept; longer captions lose their last ones, never the pooled code
TIMES, DDIM_STEPS = 1000, 25  # Noise levels in training, and solver steps in sampling
FLOW_STEPS = 16
HEADS = 4
GRID = 8  # Side of the grid that windows are given on; on another they cover the same share of a picture
LOOP_KEYS = ("learning_rate", "batch_size")  # Of a trial, for the training loop; the others are the network's arguments
Trial = dict[str, Any]  # One set of hyperparameters


@dataclass(frozen=True)
class Batch:
    data: Tensor  # Latents z (B, *z_shape) where the peer uses the VAE, else pictures x (B, 3, H, W) in [0, 1]
    c: TextCode  # Codes; a null code is a picture without caption
    generator: torch.Generator  # Source of all noise of this batch, on the CPU


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; chosen on validation, after training, among a peer's `settings`."""

    guidance: float = 1.0  # Classifier-free guidance scale, 1 is none
    temperature: float = 1.0  # Factor on the noise
    neighbours: bool = False  # Draw the code of an unfamiliar caption among near known ones, as the pipeline does


class PeerNet(nn.Module, abc.ABC):
    """A conditional generative network of latents or, with `pixels`, of pixels in [-1, 1]."""

    noise_shape: tuple[int, ...]  # Standard normal numbers that one picture takes
    codec: ImageCodec
    pixels = False

    @abc.abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Training loss of each example, (B,)."""

    def forward(self, data: Tensor, pooled: Tensor, tokens: Tensor, mask: Tensor, key: Tensor) -> dict[str, Tensor]:
        """The loss as train's loop reads it; its noise depends on `key`, (3,), alone."""
        return {"loss": self.loss(Batch(data, TextCode(pooled, tokens, mask), generator_for(*key.tolist())))}

    @abc.abstractmethod
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of codes and noise (B, *noise_shape)."""

    def decode(self, data: Tensor) -> Tensor:
        """Pictures in [0, 1] of what the network generates."""
        return (data / 2 + 0.5).clamp(0, 1) if self.pixels else self.codec.decode(data)


class DenoisingNet(PeerNet):
    """A network trained to undo noise on latents or `pixels`, sampled by DDIM without noise of its own.

    `prediction`, "v_prediction" or "sample" (the clean datum), is what `predict` gives.

    Source: Ho et al. 2020, arXiv:2006.11239; sampling: Song et al. 2021, arXiv:2010.02502; v: Salimans & Ho 2022,
        arXiv:2202.00512; cosine schedule: Nichol & Dhariwal 2021, arXiv:2102.09672; zero terminal SNR: Lin et al.
        2024, arXiv:2305.08891
    """

    def __init__(self, codec: ImageCodec, prediction: str, pixels: bool = False) -> None:
        super().__init__()
        side = codec.image_size
        self.codec, self.pixels = codec, pixels
        self.noise_shape = (3, side, side) if pixels else codec.z_shape
        self.scheduler = DDIMScheduler(
            num_train_timesteps=TIMES,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=prediction,
            clip_sample=pixels,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        )

    @abc.abstractmethod
    def predict(self, noisy: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """What the scheduler expects, (B, *noise_shape), of noisy data of that shape and noise levels t (B,) long."""

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error of each prediction, (B,), at uniform noise levels."""
        clean = batch.data * 2 - 1 if self.pixels else batch.data
        noise = torch.randn(clean.shape, generator=batch.generator).to(clean.device)
        t = torch.randint(TIMES, (len(clean),), generator=batch.generator).to(clean.device)
        predicted = self.predict(self.scheduler.add_noise(clean, noise, t), t, batch.c)
        of_v = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(clean, noise, t) if of_v else clean
        return (predicted - target).square().flatten(1).mean(1)

    @torch.no_grad()
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        self.scheduler.set_timesteps(DDIM_STEPS)
        null = TextCode.null(len(c), c.pooled.shape[1]).to(noise.device)
        noisy = noise * sampling.temperature
        for step in self.scheduler.timesteps:
            t = torch.full((len(noisy),), int(step), device=noisy.device)
            predicted = guided(self.predict, noisy, t, c, null, sampling.guidance)
            noisy = self.scheduler.step(predicted, int(step), noisy).prev_sample
        return self.decode(noisy)


class UNet(DenoisingNet):
    """A UNet2DConditionModel, one layer a level: on latents, with cross-attention on every level, or on pixels.

    With `grid`, on pixels: folded to squares of channels so that a CPU can follow, to a side of `grid`, at most a
    picture's own. That loses and learns nothing, every number is seen and predicted; only the lowest level attends.
    `widths` are the channels of the levels, each halving the side; multiples of 8.

    Source: Saharia et al. 2022 (Imagen), arXiv:2205.11487; on latents: Rombach et al. 2022, arXiv:2112.10752
    """

    def __init__(self, codec: ImageCodec, text_dim: int, widths: tuple[int, ...], grid: int | None = None) -> None:
        super().__init__(codec, "v_prediction", pixels=grid is not None)
        channels, side, _ = self.noise_shape
        grid, attending = (side, len(widths)) if grid is None else (min(grid, side), 1)
        if side % grid:
            raise ValueError(f"grid: {grid} does not divide pictures of {side} pixels; give a divisor")
        self.fold, plain = side // grid, len(widths) - attending
        self.unet = UNet2DConditionModel(
            sample_size=grid,
            in_channels=channels * self.fold**2,
            out_channels=channels * self.fold**2,
            block_out_channels=tuple(widths),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * attending,
            up_block_types=("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",) * plain,
            mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=text_dim,
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


class PriorNet(DenoisingNet):
    """DALL-E 2's diffusion prior, on VAE latents instead of CLIP codes: one sequence of tokens, pooled code, time and
    the noisy latent; the clean latent comes out.

    With `patch` the latent's whole side it is one token, causal, read off a last learned one, as in the paper. With a
    smaller `patch` it is a token for every square, without a mask (padding is zero). `heads` have 64 features each.

    Source: Ramesh et al. 2022, Hierarchical Text-Conditional Image Generation with CLIP Latents, arXiv:2204.06125
    """

    def __init__(self, codec: ImageCodec, text_dim: int, patch: int, layers: int, heads: int) -> None:
        super().__init__(codec, "sample")
        channels, side, _ = self.noise_shape
        self.patch, squares = patch, (side // patch) ** 2
        self.whole = squares == 1
        self.text_scale = math.sqrt(text_dim)
        self.tokens = nn.Linear(text_dim, heads * 64)
        self.transformer = PriorTransformer(
            num_attention_heads=heads,
            attention_head_dim=64,
            num_layers=layers,
            embedding_dim=channels * patch**2,
            num_embeddings=TOKENS,
            additional_embeddings=4 if self.whole else 2 + squares,
            embedding_proj_dim=text_dim,
            encoder_hid_proj_type=None,
            added_emb_type="prd" if self.whole else None,
        )

    def predict(self, noisy: Tensor, t: Tensor, c: TextCode) -> Tensor:
        c = c.padded(TOKENS)
        flat = F.pixel_unshuffle(noisy, self.patch).flatten(2).transpose(1, 2)
        out = self.transformer(
            flat,
            t,
            proj_embedding=c.pooled * self.text_scale,
            encoder_hidden_states=self.tokens(c.tokens) * c.mask[..., None],
            attention_mask=c.mask if self.whole else None,
        ).predicted_image_embedding
        folded = out.view_as(flat).transpose(1, 2).unflatten(2, (noisy.shape[2] // self.patch, -1))
        return F.pixel_shuffle(folded, self.patch)


class InvertibleNet(PeerNet):
    """Exact likelihood from text code to image latent, in the manner of net2net: the coupling blocks of
    `NormalizingFlowMapper` on a plain embedding of the text code, without jitter. It has a temperature, no guidance.

    Source: Rombach et al. 2020, Network-to-Network Translation with Conditional Invertible Neural Networks,
        arXiv:2005.13580; splines: Durkan et al. 2019, arXiv:1906.04032
    """

    def __init__(
        self, codec: ImageCodec, text_dim: int, blocks: int, hidden: int, condition: int = 128, bins: int = 0
    ) -> None:
        super().__init__()
        self.codec, self.text_scale = codec, math.sqrt(text_dim)
        dim = math.prod(codec.z_shape)
        self.noise_shape = (dim,)
        self.text = nn.Sequential(nn.Linear(text_dim, condition), nn.SiLU(), nn.Linear(condition, condition))
        shapes = codec.z_shape, text_dim
        couplings = NormalizingFlowMapper(*shapes, "coupling", blocks, hidden, condition, bins).flow.transform
        # The base by these names, which checkpoints have.
        base = UnconditionalDistribution(DiagNormal, loc=torch.zeros(dim), scale=torch.ones(dim), buffer=True)
        self.flow = Flow(couplings, base)

    def embed(self, c: TextCode) -> Tensor:
        return self.text(c.pooled * self.text_scale)

    def loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood in nats a dimension, (B,)."""
        z = batch.data.flatten(1)
        return -self.flow(self.embed(batch.c)).log_prob(z) / z.shape[1]

    @torch.no_grad()
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        z = self.flow(self.embed(c)).transform.inv(noise * sampling.temperature)
        return self.decode(z.unflatten(1, self.codec.z_shape))


@dataclass(frozen=True)
class LocalSampling(Sampling):
    """How a local flow draws."""

    window: tuple[float, float] = (2.0, 1.7)  # At t = 0 and 1, in positions of a grid of GRID x GRID
    perplexity: float = 8.0  # Pictures that a caption effectively draws from
    lead: float = 0.0  # Logarithm of how much more the picture weighs that leads an image


class MapperNet(PeerNet):
    """One of the bridge's mapping families, on latents with their codec or on `pixels`."""

    def __init__(self, codec: ImageCodec, mapper: Mapper, pixels: bool = False) -> None:
        super().__init__()
        self.codec, self.mapper, self.pixels, self.noise_shape = codec, mapper, pixels, mapper.sample_noise_shape
        self._varied: dict[Sampling, Mapper] = {}

    def loss(self, batch: Batch) -> Tensor:
        noise = torch.randn(len(batch.data), *self.mapper.loss_noise_shape, generator=batch.generator)
        return self.mapper.loss(batch.data, batch.c, noise=noise.to(batch.data.device))

    def varied(self, sampling: Sampling) -> Mapper:
        """The mapper, a local flow as a sampling asks, with the window on its own grid; one for each sampling."""
        if not isinstance(self.mapper, LocalFlowMapper):
            return self.mapper
        assert isinstance(sampling, LocalSampling)
        if sampling not in self._varied:
            finer = self.noise_shape[-1] / GRID if len(self.noise_shape) > 1 else 1
            window = tuple(s * finer for s in sampling.window)
            self._varied[sampling] = self.mapper.varied(
                window=window, perplexity=sampling.perplexity, lead=sampling.lead
            )
        return self._varied[sampling]

    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        mapper, guidance = self.varied(sampling), dict[str, Any]()
        if isinstance(mapper, VelocityMapper):
            guidance = {"guidance_scale": sampling.guidance, "num_inference_steps": FLOW_STEPS}
        elif sampling.guidance != 1:
            raise ValueError(f"guidance: {type(mapper).__name__} has none; leave it at 1")
        return self.decode(mapper.sample(c, noise=noise, temperature=sampling.temperature, **guidance))


@dataclass(frozen=True)
class Peer:
    """One way from captions to pictures."""

    name: str  # In the table and on the command line
    trials: tuple[Trial, ...] = ({},)  # Hyperparameters to choose from on validation
    settings: tuple[Sampling, ...] = (Sampling(),)  # Ways to sample to choose from on validation
    _: KW_ONLY
    uses_vae: bool = True  # Works on the VAE's latents, so that the VAE's training is charged to it
    whitened: bool = False  # Works on PCA-whitened latents; see `families`
    follows: "Peer | None" = None  # Whose chosen trial this one takes instead of choosing


@dataclass(frozen=True, kw_only=True)
class TrainedPeer(Peer):
    net: type[PeerNet] = MapperNet
    family: type[Mapper] | None = None  # Of a MapperNet
    tokens: bool = False  # Reads the caption's tokens, not only its pooled code
    plateau: bool = False  # Trained until its validation score stops improving instead of for the budget

    def build(self, trial: Trial, codec: ImageCodec, text_dim: int) -> PeerNet:
        """An untrained network."""
        arguments = {name: value for name, value in trial.items() if name not in LOOP_KEYS}
        if self.family:
            return MapperNet(codec, self.family(codec.z_shape, text_dim, **arguments))
        return self.net(codec, text_dim, **arguments)


@dataclass(frozen=True, kw_only=True)
class SimplePeer(Peer):
    """A fitted `Baselines` asked caption by caption, so that a caption's pictures depend on no other's."""

    draw: Callable[[Baselines, Trial, np.ndarray, int, np.random.Generator], np.ndarray]
    """Flattened latents (1, n, Z) of one text code (1, D) and a count n."""

    def generate(self, fitted: Baselines, trial: Trial, seed: int) -> Generate:
        """Pictures keyed by (seed, caption); a caption's first pictures are the same however many are asked for."""

        def pictures(captions: Sequence[str], n: int) -> Tensor:
            drawn = []
            for caption in captions:
                rng = np.random.default_rng([seed, caption_number(caption)])
                z = self.draw(fitted, trial, fitted.encode_text([caption]), n, rng)
                drawn.append(torch.cat([fitted.decode(z[:, i : i + 1]) for i in range(n)], dim=1))
            return torch.cat(drawn)

        return pictures


@dataclass(frozen=True)
class LocalPeer(Peer):
    """Ours without training: the closed form of flow matching over a memory of pairs, local, weighed by caption."""

    def remember(self, data: Tensor, codes: Tensor, captions: Sequence[Sequence[int]], codec: ImageCodec) -> PeerNet:
        """A network that draws, over pairs as `Material.pairs` gives them."""
        data = data if self.uses_vae else data * 2 - 1
        return MapperNet(codec, LocalFlowMapper.from_memory(data, codes, captions), not self.uses_vae)


def _retrieve(fitted: Baselines, trial: Trial, code: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Training pictures of near captions: n of the nearest, or one of each of the n nearest."""
    pick = baselines.retrieve_one if trial["pick"] == "nearest1" else baselines.retrieve_each
    return fitted.z[pick(baselines.nearest_captions(code, fitted.codes), fitted.caption, n, rng)]


TRIALS: dict[str, tuple[Trial, ...]] = {
    "bridge_flow": (
        {"learning_rate": 1e-3, "batch_size": 256},
        {"learning_rate": 1e-3, "batch_size": 256, "dropout": 0.1},
        {"learning_rate": 7e-4, "batch_size": 256, "width": 768, "hidden": 1536},
    ),
    "direct": (
        {"learning_rate": 1e-3, "batch_size": 32, "grid": 16, "widths": (64, 128)},
        {"learning_rate": 1e-3, "batch_size": 16, "grid": 32, "widths": (32, 64, 96)},
        {"learning_rate": 1e-3, "batch_size": 16, "grid": 16, "widths": (48, 96)},
    ),
    "latent": (
        {"learning_rate": 1e-3, "batch_size": 64, "widths": (64, 128)},
        {"learning_rate": 5e-4, "batch_size": 64, "widths": (96, 192)},
        {"learning_rate": 1e-3, "batch_size": 64, "widths": (128,)},
    ),
    "invertible": (
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 12, "hidden": 512},
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 20, "hidden": 384},
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 8, "hidden": 384, "bins": 8},
    ),
    "prior": (
        {"learning_rate": 5e-4, "batch_size": 64, "patch": 8, "layers": 6, "heads": 6},
        {"learning_rate": 5e-4, "batch_size": 64, "patch": 2, "layers": 6, "heads": 4},
        {"learning_rate": 1e-3, "batch_size": 64, "patch": 2, "layers": 4, "heads": 4},
    ),
}
GUIDED = (Sampling(), Sampling(guidance=2.0), Sampling(guidance=2.0, neighbours=True))
PLAIN = (Sampling(), Sampling(temperature=0.7), Sampling(temperature=0.7, neighbours=True))
"""What peers with guidance, and without, choose from; every trained peer has three settings."""
SMALLER = LocalSampling(window=(1.5, 1.3))
LED = LocalSampling(lead=4.0)
LOCAL = (LocalSampling(), SMALLER, replace(SMALLER, perplexity=24.0), LED, replace(LED, perplexity=24.0))
"""What a local flow chooses from: the default, smaller parts, smaller parts of more pictures, and one picture leading,
of a few or of more."""

LOCAL_FLOW = LocalPeer("local_flow", settings=LOCAL)
LOCAL_PIXELS = LocalPeer("local_pixels", settings=LOCAL, uses_vae=False)  # The closed form without a latent space
BRIDGE_FLOW = TrainedPeer("bridge_flow", TRIALS["bridge_flow"], GUIDED, family=FlowMatchingMapper)
DIRECT = TrainedPeer("direct", TRIALS["direct"], GUIDED, net=UNet, tokens=True, uses_vae=False)
DIRECT_PLATEAU = replace(DIRECT, name="direct_plateau", plateau=True, follows=DIRECT)  # What more time would buy it
LATENT = TrainedPeer("latent", TRIALS["latent"], GUIDED, net=UNet, tokens=True)
INVERTIBLE = TrainedPeer("invertible", TRIALS["invertible"], PLAIN, net=InvertibleNet)
PRIOR = TrainedPeer("prior", TRIALS["prior"], GUIDED, net=PriorNet, tokens=True)
RETRIEVAL = SimplePeer("retrieval", ({"pick": "nearest1"}, {"pick": "nearestk"}), draw=_retrieve)
RIDGE = SimplePeer("ridge", draw=lambda fitted, _, code, n, rng: fitted.ridge.sample(code, n, rng))
