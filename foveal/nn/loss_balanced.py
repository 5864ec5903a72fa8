"""The loss for classes that differ much in their number of images."""

import numpy as np
from numpy.typing import ArrayLike

from foveal.errors import ShapeError
from foveal.kinds import shown
from foveal.nn.loss import FocalLoss, class_balanced_weights


class ClassBalancedFocalLoss(FocalLoss):
    """FocalLoss in which rare classes count more, by their effective number of images: Cui et al. 2019, eq. 4 and 5

    The weights are those of class_balanced_weights, scaled so that their mean over the images is 1: the loss keeps its
    size, and the learning rate its meaning.

        loss = nn.ClassBalancedFocalLoss(np.bincount(labels, minlength=classes))
        loss.weight.data  # [K]

    logits [N, K, ...], labels [N, ...]. counts [K]: training images of each class; a class without images weighs as one
    of one image. beta: from 0, where all classes weigh the same, to below 1, where they weigh the inverse of their
    counts. gamma: 0 or more; 0 is cross-entropy. Raises ShapeError for counts that are none, and numbers beyond that.
    """

    def __init__(
        self,
        counts: ArrayLike,
        beta: float = 0.99,
        gamma: float = 0.5,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        n = np.asarray(counts)
        if n.ndim != 1 or not len(n) or n.dtype.kind not in "iuf" or not (np.isfinite(n).all() and n.min() >= 0):
            raise ShapeError(
                f"{type(self).__name__}: counts is {shown(counts)}; give the number of images of each class, [classes]:"
                " np.bincount(labels, minlength=classes)"
            )
        images = np.maximum(n.astype(np.float64), 1.0)
        weight = class_balanced_weights(images.tolist(), beta)
        super().__init__(gamma, weight * (images.sum() / (weight * images).sum()), ignore_index, reduction)
