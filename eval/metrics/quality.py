"""Quality of pictures whatever their caption: PSNR of a codec, kernel and Fréchet distance, sharpness."""

import numpy as np
from sklearn.metrics.pairwise import polynomial_kernel

ROWS = 1024


def squared_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean squared error of every picture, (B, 3, H, W) in [0, 1] against the same: (B,)."""
    return ((x.astype(np.float64) - y) ** 2).mean(axis=(1, 2, 3))


def psnr(error: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of mean squared errors of pictures in [0, 1], same shape."""
    return -10 * np.log10(error)


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel distance of features (B, F) and (B', F): unbiased squared MMD on all pairs, kernel (x.y / F + 1)^3.

    Source: Bińkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401; Gretton et al. 2012, equation 3
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    within = 0.0
    for each in (x, y):
        itself = (((each**2).sum(axis=1) / each.shape[1] + 1) ** 3).sum()
        within += float((_kernel_sum(each, each) - itself) / (len(each) * (len(each) - 1)))
    return within - 2 * (_kernel_sum(x, y) / (len(x) * len(y)))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of the kernel over all pairs, some rows at a time: no matrix of all pairs is held."""
    return sum(float(polynomial_kernel(x[i : i + ROWS], y, degree=3).sum()) for i in range(0, len(x), ROWS))


def frechet(x: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance between Gaussian fits of features (B, F) and (B', F): |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)).

    With centred features X and Y, tr (S S')^(1/2) is the sum of the singular values of X Y': exact also for fewer
    pictures than features. It falls about like 1 / rows: compare it at equal sizes only, beside held-out real pictures.

    Source: Heusel et al. 2017, arXiv:1706.08500; Dowson and Landau 1982
    """
    x, reference = x.astype(np.float64), reference.astype(np.float64)
    root_x, root_r = _root_of_covariance(x), _root_of_covariance(reference)
    shift = ((x.mean(axis=0) - reference.mean(axis=0)) ** 2).sum()
    common = np.linalg.norm(root_x @ root_r.T, "nuc")
    return float(shift + (root_x**2).sum() + (root_r**2).sum() - 2 * common)


def _root_of_covariance(x: np.ndarray) -> np.ndarray:
    """A matrix R, (min(B, F), F), whose R'R is the unbiased covariance of the rows of x, (B, F)."""
    return np.linalg.qr(x - x.mean(axis=0), mode="r") / np.sqrt(len(x) - 1)


def gradient_energy(x: np.ndarray) -> np.ndarray:
    """Mean squared difference of neighbouring pixels, of pictures (B, 3, H, W): (B,)."""
    x = x.astype(np.float64)
    across, down = np.diff(x, axis=3) ** 2, np.diff(x, axis=2) ** 2
    return across.mean(axis=(1, 2, 3)) + down.mean(axis=(1, 2, 3))
