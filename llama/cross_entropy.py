"""Cross-entropy over many classes straight from hidden states, without ever holding all logits."""

import math

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**20  # logits per block: 4 MiB, so that they stay in the cache


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean of −log softmax(hidden · weightᵀ)[target] in nats; exact, and so is its gradient.

    The gradient is computed block by block along with the loss: each logit is computed once, used and dropped.

    Args:
        hidden: float32 (N, d).
        weight: float32 (I, d), one row per class.
        targets: int64 (N,).
        smoothing: fraction of the target's probability that is spread evenly over all classes.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, smoothing)


def sampled_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, negatives: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Return the mean cross-entropy in nats against negatives that stand for all other classes.

    The batch shares its negatives, sampled uniformly. Each row reweights them by I − 1 classes per negative that is
    not its target, so that Σ exp(logit) has the expectation of the full softmax.

    Args:
        hidden: float32 (N, d).
        weight: float32 (I, d), one row per class.
        targets: int64 (N,).
        negatives: int64 (K,), distinct.
        smoothing: fraction of the target's probability that is spread evenly over all classes, exactly.
    """
    target_logit = (hidden * weight[targets]).sum(1, keepdim=True)
    negative_logits = hidden @ weight[negatives].T
    is_target = negatives == targets[:, None]
    log_weight = math.log(len(weight) - 1) - (~is_target).sum(1, keepdim=True).log()
    negative_logits = (negative_logits + log_weight).masked_fill(is_target, -torch.inf)
    logits = torch.cat([target_logit, negative_logits], 1)
    target_score = target_logit[:, 0] * (1 - smoothing) + hidden @ weight.mean(0) * smoothing
    return (logits.logsumexp(1) - target_score).mean()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        n_rows = len(hidden)
        mean_weight = weight.mean(0)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        block = max(BLOCK_ELEMENTS // len(weight), 1)
        for first in range(0, n_rows, block):
            h = hidden[first : first + block]
            target = targets[first : first + block]
            # −log softmax of the block, the largest logit subtracted before exp
            p = h @ weight.T  # (block, I): logits, then their exponentials
            target_logit = p.gather(1, target[:, None])
            max_logit = p.amax(1, keepdim=True)
            target_score = target_logit * (1 - smoothing) + (h @ mean_weight)[:, None] * smoothing
            p.sub_(max_logit).exp_()
            total = p.sum(1, keepdim=True)
            loss += (total.log() + max_logit - target_score).double().sum()
            # Gradients of the sum, which `backward` divides by the number of rows
            grad_hidden[first : first + block] = (
                p @ weight / total - weight[target] * (1 - smoothing) - mean_weight * smoothing
            )
            if grad_weight is not None:
                grad_weight.addmm_(p.T, h / total)
                grad_weight.index_add_(0, target, h, alpha=smoothing - 1)
        if grad_weight is not None and smoothing:
            grad_weight -= hidden.sum(0) * (smoothing / len(weight))
        ctx.save_for_backward(grad_hidden, grad_weight)
        return (loss / n_rows).to(hidden.dtype)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_output / len(grad_hidden)
        return grad_hidden * scale, None if grad_weight is None else grad_weight * scale, None, None
