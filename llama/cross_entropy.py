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
    not its target, so that Σ exp(logit) has the expectation of the full softmax. The gradient is computed along with
    the loss, as in `linear_cross_entropy`.

    Args:
        hidden: float32 (N, d).
        weight: float32 (I, d), one row per class.
        targets: int64 (N,).
        negatives: int64 (K,), distinct.
        smoothing: fraction of the target's probability that is spread evenly over all classes, exactly.
    """
    return _SampledCrossEntropy.apply(hidden, weight, targets, negatives, smoothing)


class _GradientAlongWithLoss(torch.autograd.Function):
    """A mean loss whose `forward` also computes the gradients of the sum, with respect to its first two inputs."""

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_output / len(grad_hidden)
        scaled_weight = None if grad_weight is None else grad_weight * scale
        n_other_inputs = len(ctx.needs_input_grad) - 2
        return grad_hidden * scale, scaled_weight, *[None] * n_other_inputs


class _LinearCrossEntropy(_GradientAlongWithLoss):
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


class _SampledCrossEntropy(_GradientAlongWithLoss):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, negatives: Tensor, smoothing: float) -> Tensor:
        n_rows = len(hidden)
        n_classes = len(weight)
        mean_weight = weight.mean(0)
        negative_weight = weight[negatives]
        # Where each row's target is among the negatives; -1: nowhere
        column_of = negatives.new_full((n_classes,), -1)
        column_of[negatives] = torch.arange(len(negatives), device=negatives.device)
        target_column = column_of[targets]
        n_others = len(negatives) - (target_column >= 0).int()
        log_weight = math.log(n_classes - 1) - n_others.log()  # -∞ log 0 where no other class was sampled

        grad_hidden = torch.empty_like(hidden)
        grad_target = torch.empty_like(hidden)  # of each row's target vector
        grad_negative = torch.zeros_like(negative_weight)
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        block = max(BLOCK_ELEMENTS // len(negatives), 1)
        for first in range(0, n_rows, block):
            h = hidden[first : first + block]
            target_weight = weight[targets[first : first + block]]
            column = target_column[first : first + block, None]
            # Logits of the negatives, -∞ where one is the row's target
            p = h @ negative_weight.T  # (block, K): logits, then their exponentials
            p += log_weight[first : first + block, None]
            at = column.clamp(min=0)
            p.scatter_(1, at, p.gather(1, at).masked_fill(column >= 0, -torch.inf))
            # −log softmax of the target, the largest logit subtracted before exp
            target_logit = (h * target_weight).sum(1, keepdim=True)
            max_logit = torch.maximum(p.amax(1, keepdim=True), target_logit)
            target_score = target_logit * (1 - smoothing) + (h @ mean_weight)[:, None] * smoothing
            p.sub_(max_logit).exp_()
            target_p = (target_logit - max_logit).exp()
            total = p.sum(1, keepdim=True) + target_p
            loss += (total.log() + max_logit - target_score).double().sum()
            # Gradients of the sum, which `backward` divides by the number of rows
            target_error = target_p / total - (1 - smoothing)
            grad_hidden[first : first + block] = (
                p @ negative_weight / total + target_error * target_weight - mean_weight * smoothing
            )
            grad_target[first : first + block] = target_error * h
            grad_negative.addmm_(p.T, h / total)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            grad_weight[negatives] = grad_negative
            grad_weight.index_add_(0, targets, grad_target)
            if smoothing:
                grad_weight -= hidden.sum(0) * (smoothing / n_classes)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return (loss / n_rows).to(hidden.dtype)
