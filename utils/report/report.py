"""Report all runs of a log folder beside the published metrics, or compare two of them.

    python -m utils.report log/
    python -m utils.report --compare log/Beauty/MMHCL/best-2024 log/kept/Beauty/baselines/item-kNN

The first writes report.md and report.html into the log folder, or into --output. The runs in log/kept belong to it.
"""

import sys
from pathlib import Path

from utils.cli.errors import run_program
from utils.cli.flags import Parser
from utils.cli.progress import announce
from utils.io.atomic import atomic_write
from utils.io.kept import refuse_kept
from utils.report.compare import compare
from utils.report.page import to_html, to_markdown
from utils.report.runs import find_runs
from utils.report.tables import VERDICT_RULE, dataset_section


def write_report(folder: Path, output: Path | None = None) -> None:
    """Write report.md and report.html of all runs of a log folder.

    Args:
        folder: the log folder.
        output: where the report goes, if not into the log folder; it is made if needed.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: a file can't be read; names it. Or the report would go into log/kept, which `output` does not name.
    """
    if output is None:
        refuse_kept(folder, "name another folder for the report by --output; --output log/kept replaces the kept one")
        output = folder
    runs = find_runs(folder)
    datasets = sorted({run.dataset for run in runs})
    with announce(f"computing the intervals of {len(runs)} runs"):
        sections = [dataset_section(dataset, [run for run in runs if run.dataset == dataset]) for dataset in datasets]
    title = f"{len(runs)} runs on {', '.join(datasets)}"
    texts = {
        output / "report.md": to_markdown(title, VERDICT_RULE, sections, output),
        output / "report.html": to_html(title, VERDICT_RULE, sections),
    }
    output.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with atomic_write(path, may_be_kept=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print("written: " + ", ".join(map(str, texts)))


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = Parser(prog="python -m utils.report", description="Put the runs of a log folder into one report.")
    parser.add_argument("folder", nargs="?", type=Path, help="log folder; report.md and report.html go there")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write the report there instead")
    parser.add_argument("--compare", nargs=2, metavar="RUN", help="compare two runs by their paths: log/…/TARGET")
    given = parser.parse_args(argv)
    if bool(given.folder) == bool(given.compare):
        parser.error("give a log folder, or --compare and two runs")
    if given.compare:
        return run_program(compare, given.compare)
    return run_program(write_report, given.folder, given.output)


if __name__ == "__main__":
    sys.exit(main())
