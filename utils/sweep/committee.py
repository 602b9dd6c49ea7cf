"""The committee at the end of runs of several seeds."""

from config_HeLLM import Settings
from utils.cli.terminal import print_line
from utils.ensemble import ensemble
from utils.ensemble.settings import EnsembleSettings
from utils.sweep.results import finished_record
from utils.training.committee import read_committee
from utils.training.run_files import COMMITTEE_FILE, run_folder


def make_committee(base: Settings, members: list[Settings]) -> None:
    """Sum the scores of finished runs with equal weights, test the sum, and write it as TARGET-committee.

    A committee of these runs that is there already is kept; where a run is not finished, none is made.

    Args:
        base: the settings that all runs share.
        members: the settings of the runs.

    Raises:
        ValueError: there is another committee, or other run, of this name; names its file.
    """
    target = f"{base.target}-committee"
    unfinished = [member.target for member in members if not finished_record(member)]
    if unfinished:
        print_line(f"{target}: not made, as {', '.join(unfinished)} is not finished; repeat the command then")
        return
    folders = [run_folder(base.output_dir, base.dataset, base.GNNModel, member.target) for member in members]
    folder = run_folder(base.output_dir, base.dataset, base.GNNModel, target)
    if (folder / COMMITTEE_FILE).exists():
        runs, _ = read_committee(folder, base.data_dir)
        if [run.folder for run in runs] == folders:
            print_line(f"{target}: finished before")
            return
    settings = EnsembleSettings(
        out=target,
        choose_by=base.choose_by,
        data_dir=base.data_dir,
        output_dir=base.output_dir,
        logging_dir=base.logging_dir,
        device=base.device,
    )
    print_line(f"{target}: the committee of {len(folders)} runs")
    ensemble.run(settings, [str(folder) for folder in folders])
