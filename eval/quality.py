"""Quality of pictures whatever their caption: PSNR of a codec, kernel distance, sharpness."""

import numpy as np
from sklearn.metrics.pairwise import polynomial_kernel


def squared_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean squared error of every picture, (B, 3, H, W) in [0, 1] against the same: (B,)."""
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}")
    return ((x.astype(np.float64) - y) ** 2).mean(axis=(1, 2, 3))


def psnr(error: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of mean squared errors of pictures in [0, 1], same shape.

    Pooled PSNR is that of the mean error over all pictures: a picture that comes out perfect cannot lift it
    to infinity, as it does a mean of PSNRs.

    >>> psnr(np.array([0.01]))
    array([20.])
    """
    return -10 * np.log10(error)


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel distance: unbiased squared MMD with the kernel (x.y / F + 1)^3, on all pairs at once.

    torchmetrics' KernelInceptionDistance averages the same over random subsets of equal size, drawn from
    global random state; here nothing is drawn, and the sets may differ in size.

    Args:
        x: Features of samples, (B, F), B at least 2.
        y: Features of real pictures, (B', F), B' at least 2.

    Source: Bińkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401;
        Gretton et al. 2012, A kernel two-sample test, equation 3
    """
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"x and y: a kernel distance needs two pictures each, got {len(x)} and {len(y)}")
    x, y = x.astype(np.float64), y.astype(np.float64)
    return _mean_off_diagonal(x) + _mean_off_diagonal(y) - 2 * float(polynomial_kernel(x, y, degree=3).mean())


def _mean_off_diagonal(x: np.ndarray) -> float:
    k = polynomial_kernel(x, degree=3)
    return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))


def gradient_energy(x: np.ndarray) -> np.ndarray:
    """Mean squared difference of neighbouring pixels, of pictures (B, 3, H, W): (B,)."""
    x = x.astype(np.float64)
    across, down = np.diff(x, axis=3) ** 2, np.diff(x, axis=2) ** 2
    return across.mean(axis=(1, 2, 3)) + down.mean(axis=(1, 2, 3))


def two_sided(ratio: np.ndarray) -> np.ndarray:
    """min(r, 1/r): 1 when samples are as sharp as real pictures, less when blurred *or* noisy.

    >>> two_sided(np.array([0.5, 1.0, 2.0]))
    array([0.5, 1. , 0.5])
    """
    return np.minimum(ratio, 1 / ratio)


def sharpness_ratio(x: np.ndarray, real: np.ndarray) -> float:
    """Gradient energy of samples (B, 3, H, W) over that of real pictures (B', 3, H, W); see `two_sided`."""
    return float(gradient_energy(x).mean() / gradient_energy(real).mean())
