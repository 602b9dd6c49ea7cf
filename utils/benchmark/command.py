"""Measurements that take long.

python -m utils.benchmark train --model_name S [any flag of train_HeLLM.py] [--vs --model_name S …]
python -m utils.benchmark gpu --dataset Beauty --max_memory 22GiB [any flag of train_HeLLM.py]
python -m utils.benchmark score --preset tiny --dataset Beauty [any flag of train_HeLLM.py]
python -m utils.benchmark pretrain [any flag of preprocess.pretrain_graph]
python -m utils.benchmark memory --dataset Beauty [any flag of train_HeLLM.py]
python -m utils.benchmark full --dataset Beauty [any flag of train_HeLLM.py]
python -m utils.benchmark load [--size 2GB]
python -m utils.benchmark ablation --dataset Beauty [any flag of preprocess.pretrain_graph]
"""

import numpy as np
import torch

from config_HeLLM import parse_args
from utils.benchmark.ablation import ablation
from utils.benchmark.gpu import gpu
from utils.benchmark.load import load
from utils.benchmark.memory import full, memory
from utils.benchmark.pretrain import pretrain
from utils.benchmark.train import train
from utils.cli.errors import report_user_error, run_program
from utils.data.interactions import Samples
from utils.evaluation.metrics import format_headline_metrics, ranking_metrics
from utils.evaluation.ranking import evaluate_ranking
from utils.runtime.distributed import resolve_device
from utils.runtime.seed import seed_everything
from utils.runtime.signals import StopTraining
from utils.training.adapter_file import load_adapter
from utils.training.build import build_model, load_data
from utils.training.checkpoints import BEST_ADAPTER, run_folder

SAMPLE = 500  # users that are scored one by one


def score(argv: list[str]) -> None:
    """Score all test users in batches, and some of them one by one; print speeds, ratio and whether ranks agree."""
    settings = parse_args(argv)
    device = resolve_device(settings.device)
    data, tables = load_data(settings)
    seed_everything(settings.seed)
    model = build_model(settings, tables, device).eval()
    folder = run_folder(settings.output_dir, settings.dataset, settings.GNNModel, settings.target)
    adapter = folder / BEST_ADAPTER
    if adapter.is_file():
        load_adapter(model, adapter)
    print(f"{adapter if adapter.is_file() else 'untrained weights'}, {torch.get_num_threads()} threads, {device}")
    samples = data.test()
    chosen = np.sort(np.random.default_rng(0).choice(len(samples), min(SAMPLE, len(samples)), replace=False))
    some = Samples(samples.user[chosen], samples.begin[chosen], samples.length[chosen])
    evaluate_ranking(model, data, some, settings.eval_batch_size, device)  # warm-up
    single = evaluate_ranking(model, data, some, 1, device)
    batched = evaluate_ranking(model, data, samples, settings.eval_batch_size, device)
    print(
        f"one by one: {single.users_per_s:8.0f} users/s  {format_headline_metrics(ranking_metrics(single.seen_kept))}  ({len(some)} users)"
    )
    of_these = ranking_metrics(batched.seen_kept[chosen])
    print(
        f"batched:    {batched.users_per_s:8.0f} users/s  {format_headline_metrics(of_these)}  (the same of {len(samples)})"
    )
    differ = int((batched.seen_kept[chosen] != single.seen_kept).sum())
    print(f"ratio {batched.users_per_s / single.users_per_s:.2f}, {differ} of {len(some)} ranks differ")


def main(argv: list[str]) -> int:
    """Run one benchmark; returns the exit status."""
    benchmarks = {"train": train, "score": score, "pretrain": pretrain, "ablation": ablation}
    benchmarks |= {"gpu": gpu, "memory": memory, "full": full, "load": load}
    if not argv or argv[0] not in benchmarks:
        return report_user_error(
            f"python -m utils.benchmark {'|'.join(benchmarks)} [flags of the program that is measured]"
        )
    try:
        return run_program(benchmarks[argv[0]], argv[1:])
    except StopTraining as stop:
        print(stop, flush=True)
        return stop.status
