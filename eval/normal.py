"""python -m eval.normal MODEL --data data/emoji --out docs/normal.png: is the latent space normal by design?

Draws from N(0, I) and from the Gaussian fitted to the training latents, decoded, with the kernel distance
(KID) of each to held-out real pictures beside that of real training pictures and of reconstructions.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridge.codec import ImageCodec
from bridge.images import contact_sheet, save_png, to_pil
from bridge.noise import generator_for, normal_rows
from bridge.pipeline import BridgePipeline
from eval.data import Pictures
from eval.features import EfficientNetLite0
from eval.quality import kid

CHUNK = 64


def encode_all(codec: ImageCodec, pictures: Pictures, rows: np.ndarray) -> Tensor:
    """Mean latents of real pictures by row, (len(rows), *z_shape)."""
    starts = range(0, len(rows), CHUNK)
    return torch.cat([codec.encode(pictures.pixels(rows[i : i + CHUNK])).mean for i in starts])


def gaussian_draws(z: Tensor, normal: Tensor) -> Tensor:
    """Draws from the full-covariance Gaussian fitted to latents.

    Args:
        z: Latents, (N, *z_shape).
        normal: Standard normal noise, (n, *z_shape).

    Returns:
        (n, *z_shape).
    """
    flat = z.flatten(1).double()
    covariance = torch.cov(flat.T) + 1e-6 * torch.eye(flat.shape[1], dtype=torch.float64)
    draws = flat.mean(0) + normal.flatten(1).double() @ torch.linalg.cholesky(covariance).T
    return draws.float().view_as(normal)


def decode_all(codec: ImageCodec, z: Tensor) -> Tensor:
    """Pictures of latents, (N, 3, H, W)."""
    return torch.cat([codec.decode(chunk) for chunk in z.split(CHUNK)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when table and sheet are written, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m eval.normal", description=__doc__)
    parser.add_argument("model", help="a shipped model's name, a model folder, or a hub id")
    parser.add_argument("--data", type=Path, default=Path("data/emoji"), help="a dataset made by train.emoji")
    parser.add_argument("--split", default="validation", help="the real pictures to compare with")
    parser.add_argument("-n", type=int, default=500, help="draws")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    args = parser.parse_args(argv)
    try:
        codec = BridgePipeline.from_pretrained(args.model).codec
        pictures = Pictures.load(args.data)
        real = pictures.pixels(pictures.where(args.split))
    except (ValueError, FileNotFoundError) as error:
        print(f"python -m eval.normal: {error}", file=sys.stderr)
        return 2
    train = pictures.where("train")
    normal = normal_rows([(args.seed, i) for i in range(args.n)], codec.z_shape)
    some = train[torch.randperm(len(train), generator=generator_for(args.seed))[: args.n].numpy()]
    held_out = encode_all(codec, pictures, pictures.where(args.split))
    sets = {
        "real training pictures": pictures.pixels(some),
        f"reconstructions ({args.split})": decode_all(codec, held_out[: args.n]),
        "N(0, I)": decode_all(codec, normal),
        "fitted Gaussian": decode_all(codec, gaussian_draws(encode_all(codec, pictures, train), normal)),
    }
    judge = EfficientNetLite0()
    target = judge.encode(real).late
    print(f"KID to {len(real)} real pictures of {args.split}, {args.n} pictures each, EfficientNet-Lite0")
    for name, x in sets.items():
        print(f"  {name:32} {kid(judge.encode(x).late, target):.3f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet([to_pil(x[:10]) for x in sets.values()], list(sets))
    save_png(sheet, args.out, {"seed": args.seed})
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
