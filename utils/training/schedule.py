"""Learning rate: linear warm-up, then half a cosine down (docs/method.md, section 3)."""

import math


def learning_rate(epoch: float, lr: float, min_lr: float, warmup_epochs: int, num_epochs: int) -> float:
    """Return the learning rate at a point of a run.

    Args:
        epoch: epochs done, with the fraction of the running one.
        lr: highest rate.
        min_lr: rate at the end of the cosine.
        warmup_epochs: epochs of the warm-up.
        num_epochs: epochs of the run, the warm-up included.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / max(num_epochs - warmup_epochs, 1)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
