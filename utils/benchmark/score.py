"""Speed of scoring users in batches and one by one: the part `score` of utils.benchmark."""

import numpy as np
import torch

from config_HeLLM import parse_args
from utils.data.interactions import Samples
from utils.evaluation.metrics import format_headline_metrics, ranking_metrics
from utils.evaluation.ranking import evaluate_ranking
from utils.runtime.distributed import resolve_device
from utils.runtime.seed import seed_everything
from utils.training.adapter_file import load_adapter
from utils.training.build import build_model, load_data
from utils.training.run_files import BEST_ADAPTER, run_folder

N_SINGLE_USERS = 500  # users who are also scored one by one


def score(argv: list[str]) -> None:
    """Score all test users in batches and some of them one by one; print both speeds and whether ranks agree."""
    settings = parse_args(argv)
    device = resolve_device(settings.device)
    data, tables = load_data(settings)
    seed_everything(settings.seed)
    model = build_model(settings, tables, device).eval()
    folder = run_folder(settings.output_dir, settings.dataset, settings.GNNModel, settings.target)
    adapter = folder / BEST_ADAPTER
    if adapter.is_file():
        load_adapter(model, adapter)
    weights = adapter if adapter.is_file() else "untrained weights"
    print(f"{weights}, {torch.get_num_threads()} threads, {device}")

    samples = data.test()
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(samples), min(N_SINGLE_USERS, len(samples)), replace=False))
    subset = Samples(samples.user[chosen], samples.start[chosen], samples.length[chosen])
    evaluate_ranking(model, data, subset, settings.eval_batch_size, device)  # warm-up
    single = evaluate_ranking(model, data, subset, 1, device)
    batched = evaluate_ranking(model, data, samples, settings.eval_batch_size, device)

    batched_ranks = batched.seen_kept[chosen]
    single_metrics = format_headline_metrics(ranking_metrics(single.seen_kept))
    batched_metrics = format_headline_metrics(ranking_metrics(batched_ranks))
    print(f"one by one: {single.users_per_s:8.0f} users/s  {single_metrics}  ({len(subset)} users)")
    print(f"batched:    {batched.users_per_s:8.0f} users/s  {batched_metrics}  (the same of {len(samples)})")
    n_different = int((batched_ranks != single.seen_kept).sum())
    print(f"ratio {batched.users_per_s / single.users_per_s:.2f}, {n_different} of {len(subset)} ranks differ")
