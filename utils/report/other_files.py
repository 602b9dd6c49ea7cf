"""Runs that were made from other data files than the rest of their dataset."""

from collections import Counter, defaultdict

from utils.data.input_files import CHECKSUM
from utils.report.runs import Run


def mark_other_files(runs: list[Run]) -> None:
    """Write into every run which data files it has read that most others have not.

    Of equally frequent files, that of the first run counts. A run that has not recorded its files is not marked.

    Args:
        runs: the runs of a dataset, the best first.
    """
    read = defaultdict(Counter)  # checksums of each file
    for run in runs:
        for name, checksum in run.files.items():
            read[name][checksum] += 1
    usual = {name: counts.most_common(1)[0][0] for name, counts in read.items()}
    for run in runs:
        run.other_files = [
            f"{name.removeprefix(CHECKSUM)} ({checksum})"
            for name, checksum in run.files.items()
            if checksum != usual[name]
        ]
