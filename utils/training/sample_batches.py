"""The batches of a training on samples, and this replica's share of each."""

from collections.abc import Iterator

import numpy as np
import torch

from config_HeLLM import Settings
from llama.parallel import dp_rank, dp_size
from utils.data.batches import Batch, Padding, collate, split_microbatches, training_batches
from utils.data.interactions import Interactions, Samples
from utils.training.prompt import prompt_positions_per_row

TIES = 1  # in the seed of the order of ties, which is not to be that of the batches


class SampleBatches:
    """Batches that are arrays of sample indices, one per optimizer step, samples of similar length together.

    Args:
        samples: samples to train on.
        batch_size: samples per optimizer step.
        seed: seed of the run.
        tokens: positions per optimizer step, prompt and padding included; 0: count samples.
        prompt_positions: prompt positions that each sample adds.
    """

    def __init__(
        self, samples: Samples, batch_size: int, seed: int, tokens: int = 0, prompt_positions: int = 0
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.tokens = tokens
        self.prompt_positions = prompt_positions

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Return the batches of an epoch: the same ones whenever the epoch is the same."""
        return training_batches(
            self.samples.length, self.batch_size, self.seed, epoch, self.tokens, self.prompt_positions
        )

    def n_samples(self, batch: np.ndarray) -> int:
        """Return the number of samples in a batch."""
        return len(batch)

    def users(self, batch: np.ndarray) -> list[int]:
        """Return the users of a batch."""
        return self.samples.user[batch].tolist()


class ReplicaBatches(SampleBatches):
    """Batches of fine-tuning, which replicas of the model divide among them and process in micro-batches.

    Args:
        settings: settings of the run.
        data: interactions.
    """

    def __init__(self, settings: Settings, data: Interactions) -> None:
        self.data = data
        self.settings = settings
        self._epoch_data = (-1, data)  # an epoch, and its interactions
        super().__init__(
            data.training_samples(settings.objective),
            settings.batch_size * settings.grad_steps,
            settings.seed,
            settings.tokens_per_batch * settings.grad_steps,
            prompt_positions_per_row(settings.objective, settings.prompt),
        )

    def n_samples(self, batch: np.ndarray) -> int:
        """Return the number of targets in a batch, which the log calls samples.

        Under the causal objective a sample has one target per position, else one.
        """
        return self.samples.n_targets(batch)

    def interactions(self, epoch: int) -> Interactions:
        """Return the interactions of an epoch, with --shuffle_ties in an order that seed and epoch decide alone."""
        if self.settings.shuffle_ties and self._epoch_data[0] != epoch:
            rng = np.random.default_rng([self.settings.seed, epoch, TIES])
            self._epoch_data = (epoch, self.data.shuffle_ties(rng))
        return self._epoch_data[1]

    def microbatches(
        self, batch: np.ndarray, epoch: int, padding: Padding, device: torch.device
    ) -> Iterator[tuple[Batch, int, float]]:
        """Yield this replica's share of a batch in micro-batches.

        Args:
            batch: sample indices of an optimizer step.
            epoch: number of the epoch.
            padding: the side on which the model's histories are padded.
            device: where the tensors go.

        Yields:
            A micro-batch, its number of targets, and its weight in the loss of the whole optimizer step.
        """
        s = self.settings
        # With fewer samples than replicas, run one sample with weight 0: all replicas need gradients to all-reduce
        has_no_samples = dp_rank() >= len(batch)
        local_idx = batch[:1] if has_no_samples else batch[dp_rank() :: dp_size()]
        n_targets = self.samples.n_targets(batch)
        data = self.interactions(epoch)
        for idx in split_microbatches(
            local_idx, self.samples.length, s.batch_size, s.tokens_per_batch, self.prompt_positions
        ):
            n_local = self.samples.n_targets(idx)
            weight = 0 if has_no_samples else n_local / n_targets
            yield collate(data, self.samples, idx, padding).to(device), n_local, weight
