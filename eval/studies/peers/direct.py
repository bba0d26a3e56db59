"""The direct way: text code to pixels by conditional diffusion, no latent space anywhere."""

from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from bridge.text import TextCode
from eval.studies.peers.base import GUIDED, PeerNet, Space, TrainedPeer, Trial, cross_states, net_arguments
from eval.studies.peers.denoise import DenoisingNet

HEADS = 4


def small_unet(channels: int, side: int, widths: tuple[int, ...], attend: int, text_dim: int) -> UNet2DConditionModel:
    """A UNet2DConditionModel with one layer a level, and cross-attention on the `attend` lowest levels.

    Args:
        widths: Channels of its levels, each halving the side; multiples of 8.
    """
    down = ["DownBlock2D"] * (len(widths) - attend) + ["CrossAttnDownBlock2D"] * attend
    up = ["CrossAttnUpBlock2D"] * attend + ["UpBlock2D"] * (len(widths) - attend)
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=text_dim,
        attention_head_dim=HEADS,  # diffusers takes it for the number of heads
        norm_num_groups=8,
    )


class DirectNet(DenoisingNet):
    """A UNet on pixels, which are folded into the channels of a coarser grid so that a CPU can follow.

    Folding loses nothing and learns nothing: the network sees and predicts every pixel. Pictures without
    captions train it under the null code, as classifier-free guidance does with dropped captions.

    Args:
        space: What it has to fit.
        grid: Side of the grid that the network works on; at most a picture's own.
        widths: See `small_unet`.
        attend: See `small_unet`.
    """

    def __init__(self, space: Space, grid: int, widths: tuple[int, ...], attend: int = 1) -> None:
        channels, height, _ = space.picture_shape
        grid = min(grid, height)
        if height % grid:
            raise ValueError(f"grid: {grid} does not divide pictures of {height} pixels; give a divisor")
        super().__init__((channels, height, height), "v_prediction", clip=True)
        self.fold = height // grid
        self.unet = small_unet(channels * self.fold**2, grid, tuple(widths), attend, space.text_dim)

    def enter(self, data: Tensor) -> Tensor:
        return data * 2 - 1

    def leave(self, clean: Tensor) -> Tensor:
        return (clean / 2 + 0.5).clamp(0, 1)

    def predict(self, noisy: Tensor, t: Tensor, c: TextCode) -> Tensor:
        states, mask = cross_states(c)
        folded = F.pixel_unshuffle(noisy, self.fold)
        out = self.unet(folded, t, encoder_hidden_states=states, encoder_attention_mask=mask).sample
        return F.pixel_shuffle(out, self.fold)


class Direct(TrainedPeer):
    """Pixel diffusion with cross-attention over pooled code and tokens.

    Source: Ho et al. 2020, arXiv:2006.11239; Saharia et al. 2022 (Imagen), arXiv:2205.11487
    """

    name, uses_vae, settings, tokens = "direct", False, GUIDED, True
    trials: tuple[Trial, ...] = (
        {"learning_rate": 1e-3, "batch_size": 32, "grid": 16, "widths": (64, 128)},
        {"learning_rate": 1e-3, "batch_size": 16, "grid": 32, "widths": (32, 64, 96)},
        {"learning_rate": 1e-3, "batch_size": 16, "grid": 16, "widths": (48, 96)},
    )

    def build(self, trial: Trial, space: Space) -> PeerNet:
        return DirectNet(space, **net_arguments(trial))


class DirectPlateau(Direct):
    """The same, run on until its validation loss stops improving: what more time would buy it."""

    name, plateau, follows = "direct_plateau", True, "direct"
