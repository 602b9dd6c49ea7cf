"""Learning rate: linear warm-up, then half a cosine down (SPEC.md section 3)."""

import math


def learning_rate(epoch: float, lr: float, min_lr: float, warmup_epochs: int, num_epochs: int) -> float:
    """Rate at a point of the run.

    Args:
        epoch: epochs done, with the fraction of the running one.
        lr, min_lr: highest rate, and where the cosine ends.
        warmup_epochs, num_epochs: length of the warm-up and of the whole run, in epochs.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / max(num_epochs - warmup_epochs, 1)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
