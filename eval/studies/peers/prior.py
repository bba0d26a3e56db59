"""The prior of DALL-E 2: a transformer that predicts the clean latent, on diffusers' PriorTransformer."""

import math

from diffusers import PriorTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from bridge.text import TextCode
from eval.studies.peers.base import GUIDED, TOKENS, PeerNet, Space, TrainedPeer, Trial, net_arguments
from eval.studies.peers.denoise import DenoisingNet


class PriorNet(DenoisingNet):
    """Text tokens, pooled code, time and the noisy latent in one sequence; the clean latent comes out.

    With `patch` the latent's whole side it is one token, causal, read off a last learned one, as in the paper.
    With a smaller `patch` it is a token for every square, without a mask (padding is zero). Pictures without
    captions train it under the null code: no tokens, zero pooled code.

    Args:
        space: What it has to fit.
        patch: Side of the squares of the latent that are one token.
        layers: Transformer blocks.
        heads: Attention heads, 64 features each.
    """

    def __init__(self, space: Space, patch: int, layers: int, heads: int) -> None:
        shape = space.codec.z_shape
        super().__init__(shape, "sample", clip=False)
        self.codec, self.patch, self.squares = space.codec, patch, (shape[1] // patch) ** 2
        self.whole = self.squares == 1
        self.text_scale = math.sqrt(space.text_dim)
        self.tokens = nn.Linear(space.text_dim, heads * 64)
        self.transformer = PriorTransformer(
            num_attention_heads=heads,
            attention_head_dim=64,
            num_layers=layers,
            embedding_dim=shape[0] * patch**2,
            num_embeddings=TOKENS,
            additional_embeddings=4 if self.whole else 2 + self.squares,
            embedding_proj_dim=space.text_dim,
            encoder_hid_proj_type=None,
            added_emb_type="prd" if self.whole else None,
        )

    def leave(self, clean: Tensor) -> Tensor:
        return self.codec.decode(clean)

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

    name, uses_vae, settings, tokens = "prior", True, GUIDED, True
    trials = (
        {"learning_rate": 5e-4, "batch_size": 64, "patch": 8, "layers": 6, "heads": 6},
        {"learning_rate": 5e-4, "batch_size": 64, "patch": 2, "layers": 6, "heads": 4},
        {"learning_rate": 1e-3, "batch_size": 64, "patch": 2, "layers": 4, "heads": 4},
    )

    def build(self, trial: Trial, space: Space) -> PeerNet:
        return PriorNet(space, **net_arguments(trial))
