"""Draws from a latent space, neighbourhoods of two spaces, steps of a path."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from bridge.errors import UserError
from bridge.mappers import Mapper, VelocityMapper
from bridge.noise import normal_rows
from bridge.text import TextCode
from eval.features import Extractor
from eval.judge import JudgeSpace
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.metrics.nearest import local_radius, relative_distance

CHUNK = 256


def gaussian_draws(z: Tensor, normal: Tensor) -> Tensor:
    """Draws (n, *z_shape) from the Gaussian fitted to latents (N, *z_shape), by standard normal noise (n, *z_shape)."""
    flat = z.flatten(1).double()
    covariance = torch.cov(flat.T) + 1e-6 * torch.eye(flat.shape[1], dtype=torch.float64)
    draws = flat.mean(0) + normal.flatten(1).double() @ torch.linalg.cholesky(covariance).T
    return draws.float().view_as(normal)


def channel_draws(z: Tensor, normal: Tensor) -> Tensor:
    """Standard normal noise (n, C, *places) with the mean and deviation of each channel of latents (N, C, *places).

    Codecs standardise in several ways; so all are held to N(0, I) alike.
    """
    over = [0, *range(2, z.ndim)]
    return z.mean(over, keepdim=True) + z.std(over, keepdim=True) * normal


def mapped(mapper: Mapper, c: TextCode, noise: Tensor, steps: int) -> Tensor:
    """Latents of codes, without guidance, (B, *z_shape); `steps` count for a mapper with a velocity."""
    settings = {"num_inference_steps": steps} if isinstance(mapper, VelocityMapper) else {}
    starts = range(0, len(noise), CHUNK)
    return torch.cat([mapper.sample(c[i : i + CHUNK], noise=noise[i : i + CHUNK], **settings) for i in starts])


def mapped_means(mapper: Mapper, c: TextCode, samples: int, steps: int, seed: int) -> Tensor:
    """Mean of each caption's samples, without guidance and on shared noise, (C, *z_shape)."""
    noise = normal_rows([(seed, i) for i in range(samples)], mapper.sample_noise_shape)
    which = torch.arange(len(c)).repeat_interleave(samples)
    z = mapped(mapper, c[which], noise.repeat(len(c), *[1] * (noise.ndim - 1)), steps)
    return z.unflatten(0, (len(c), samples)).mean(1)


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    """The k nearest others of every point (N, D) by the cosine to the points' mean, (N, k), nearest first.

    >>> nearest(np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]]), 1).ravel()
    array([1, 0, 3, 2])
    """
    if not 1 <= k < len(points):
        raise UserError(f"k: expected 1 to {len(points) - 1} neighbours of {len(points)} points, got {k}")
    cosine = cosine_similarity(points - points.mean(axis=0))
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k]


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of each item's neighbours that two spaces have in common, (N,), of indices (N, k) each.

    >>> overlap(np.array([[1, 2]]), np.array([[2, 3]]))
    array([0.5])
    """
    return (a[:, :, None] == b[:, None, :]).any(2).mean(1)


def near_real(features: np.ndarray, real: np.ndarray, k: int = 3) -> np.ndarray:
    """Whether each picture (B, F) lies as near to a real one (N, F) as that one's k-th nearest real picture, (B,) bool.

    Unlike the realism test it uses all features, not only what captions differ in, and is not calibrated.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric, arXiv:1904.06991

    >>> near_real(np.array([[0.5], [9.0]]), np.array([[0.0], [1.0], [2.0]]), k=1)
    array([ True, False])
    """
    return relative_distance(features, real, local_radius(real, k), len(real)) <= 1


@dataclass(frozen=True)
class Smoothness:
    """How paths run, averaged over pairs."""

    largest: Interval  # Largest step over the mean step; 1 for equal steps
    length: Interval  # Sum of the steps over the distance of the ends; 1 for the straight way
    plausible: Interval  # Share of the pictures between the ends that pass the realism test
    precision: Interval  # Share of them that lie among real pictures; see `near_real`


def smoothness(space: JudgeSpace, extractor: Extractor, paths: Tensor, real: np.ndarray, seed: int = 0) -> Smoothness:
    """P paths of S pictures, (P, S, 3, H, W) in [0, 1], as the judge sees them; P at least 2, S at least 3.

    `real` are late features of other real pictures, (N, F).

    Source: largest step: as Karras et al. 2019, arXiv:1812.04948, measure a path by steps in a judge's features
    """
    features = extractor.encode(paths.flatten(0, 1))
    described = space.describe(features)
    largest, length = step_ratios(described.shows.reshape(*paths.shape[:2], -1))
    passes = (described.realistic, near_real(features.late, real))
    shares = [each.reshape(paths.shape[:2])[:, 1:-1].mean(1) for each in passes]
    pairs = np.arange(len(paths))
    return Smoothness(*(paired_bootstrap(v.astype(float), pairs, seed=seed) for v in (largest, length, *shares)))


def step_ratios(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of paths (P, S, D): largest step over the mean step, and summed steps over the ends' distance, (P,) each.

    >>> step_ratios(np.array([[[0.0], [1.0], [4.0]]]))
    (array([1.5]), array([1.]))
    """
    steps = np.linalg.norm(np.diff(points, axis=1), axis=2)
    ends = np.linalg.norm(points[:, -1] - points[:, 0], axis=1)
    return steps.max(1) / np.maximum(steps.mean(1), 1e-30), steps.sum(1) / np.maximum(ends, 1e-30)
