"""Measure the costs of every stage: each benchmark prints its figures by one command.

python -m utils.benchmark train --model_name S [any flag of train_HeLLM.py] [--vs --model_name S …]
python -m utils.benchmark gpu --dataset Beauty --max_memory 22GiB [any flag of train_HeLLM.py]
python -m utils.benchmark score --preset tiny --dataset Beauty [any flag of train_HeLLM.py]
python -m utils.benchmark pipeline --dataset Beauty
python -m utils.benchmark peers --dataset Beauty
python -m utils.benchmark growth --dataset Beauty [--copies 1,10,50]
python -m utils.benchmark profile --dataset Beauty --what best|sasrec|mmhcl|score
python -m utils.benchmark memory --dataset Beauty [any flag of train_HeLLM.py]
python -m utils.benchmark full --dataset Beauty [any flag of train_HeLLM.py]
python -m utils.benchmark load [--size 2GB]
python -m utils.benchmark raw [--lines 1000000]
python -m utils.benchmark ablation --dataset Beauty [any flag of preprocess.pretrain_graph]
"""

from importlib import import_module

from utils.cli.errors import report_user_error, run_program
from utils.runtime.signals import StopTraining

# Module and function of each benchmark, imported when it runs: most of them import torch, which takes seconds
BENCHMARKS = {
    "train": ("train", "train"),
    "score": ("score", "score"),
    "pipeline": ("pipeline", "pipeline"),
    "peers": ("peers", "peers"),
    "growth": ("growth", "growth"),
    "profile": ("profile", "profile_operations"),
    "ablation": ("ablation", "ablation"),
    "gpu": ("gpu", "gpu"),
    "memory": ("memory", "memory"),
    "full": ("memory", "full"),
    "load": ("load", "load"),
    "raw": ("raw", "raw"),
}


def main(argv: list[str]) -> int:
    """Run one benchmark and return the exit status."""
    usage = f"python -m utils.benchmark {'|'.join(BENCHMARKS)} [flags of the measured program]"
    if argv in (["--help"], ["-h"]):
        print(f"usage: {usage}")
        return 0
    if not argv or argv[0] not in BENCHMARKS:
        return report_user_error(usage)
    module, function = BENCHMARKS[argv[0]]
    try:
        return run_program(getattr(import_module(f"utils.benchmark.{module}"), function), argv[1:])
    except StopTraining as stop:
        print(stop, flush=True)
        return stop.status
