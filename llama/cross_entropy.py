"""Cross-entropy over many classes straight from hidden states, without ever holding all logits."""

import math

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**20  # logits at a time: 4 MiB, so that they stay in the cache


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean of −log softmax(hidden · weightᵀ)[target], in nats; exact, and so is its gradient.

    The gradient is made block by block along with the loss: each logit is computed once, used and dropped.

    Args:
        hidden: float32 (N, d); weight: float32 (I, d); targets: int64 (N,).
        smoothing: share of the target's probability that is spread evenly over all classes.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, smoothing)


def sampled_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, negatives: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy against classes drawn evenly for the whole batch, counted for all that they stand for.

    Its expectation of Σ exp(logit) is the full one's; a drawn class that is a row's target is left out there.

    Args:
        hidden: float32 (N, d); weight: float32 (I, d); targets: int64 (N,); negatives: int64 (K,), distinct.
        smoothing: share of the target's probability that is spread evenly over all classes, exactly.
    """
    own = (hidden * weight[targets]).sum(1, keepdim=True)
    others = hidden @ weight[negatives].T
    is_target = negatives == targets[:, None]
    stand_for = math.log(len(weight) - 1) - (~is_target).sum(1, keepdim=True).log()
    logits = torch.cat([own, (others + stand_for).masked_fill(is_target, -torch.inf)], 1)
    wanted = own[:, 0] * (1 - smoothing) + hidden @ weight.mean(0) * smoothing
    return (logits.logsumexp(1) - wanted).mean()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        n, mean = len(hidden), weight.mean(0)
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        size = max(BLOCK_ELEMENTS // len(weight), 1)
        for first in range(0, n, size):
            h, target = hidden[first : first + size], targets[first : first + size]
            p = h @ weight.T  # (size, I)
            own, top = p.gather(1, target[:, None]), p.amax(1, keepdim=True)
            wanted = own * (1 - smoothing) + (h @ mean)[:, None] * smoothing
            p.sub_(top).exp_()
            total = p.sum(1, keepdim=True)
            loss += (total.log() + top - wanted).double().sum()
            of_hidden[first : first + size] = p @ weight / total - weight[target] * (1 - smoothing) - mean * smoothing
            if of_weight is not None:
                of_weight.addmm_(p.T, h / total)
                of_weight.index_add_(0, target, h, alpha=smoothing - 1)
        if of_weight is not None and smoothing:
            of_weight -= hidden.sum(0) * (smoothing / len(weight))
        ctx.save_for_backward(of_hidden, of_weight)
        return (loss / n).to(hidden.dtype)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        of_hidden, of_weight = ctx.saved_tensors
        share = upstream / len(of_hidden)
        return of_hidden * share, None if of_weight is None else of_weight * share, None, None
