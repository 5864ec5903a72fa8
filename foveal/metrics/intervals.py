"""How sure a share is that was counted on some images: its confidence interval."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from foveal.errors import DataError
from foveal.metrics import checks


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) that holds the true share with this confidence, of an accuracy or a recall, say.

    `successes` of `trials` were counted:

        metrics.wilson_interval(98, 100)  # (0.930, 0.994)

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927: with p = successes / trials
    and the normal quantile z, (p + z^2/2n -+ z sqrt(p(1 - p)/n + z^2/4n^2)) / (1 + z^2/n). It is right for few images
    and for shares near 0 and 1 too (Brown, Cai and DasGupta 2001). Without trials nothing is known: (0, 1). Raises
    DataError for counts and a confidence that there cannot be.
    """
    n = checks.whole("wilson_interval", "trials", trials, 0)
    k = checks.whole("wilson_interval", "successes", successes, 0, n)
    level = checks.number("wilson_interval", "confidence", confidence)
    if not 0 < level < 1:
        raise DataError(f"wilson_interval: confidence is {confidence}, it has to be above 0 and below 1, such as 0.95")
    if n == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + level) / 2), k / n
    middle = p + z * z / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding would leave the ends a little beside 0 and 1, where they belong.
    low = 0.0 if k == 0 else (middle - half) / scale
    return low, 1.0 if k == n else (middle + half) / scale
