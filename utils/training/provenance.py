"""Which data files a run has read, which runs made them, and what the kept runs of the same settings give."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from config_HeLLM import Settings, run_fingerprint
from utils.cli.restored import restore_settings
from utils.data.input_files import CHECKSUM
from utils.data.layout import SEQUENCE_TABLE
from utils.evaluation.metrics import HEADLINE_METRICS, format_mean
from utils.io.kept import KEPT
from utils.logs.records import FinalRecord, read_metrics

RELEASED_METRICS = HEADLINE_METRICS[:2]
VARIED = {"seed", "target"}  # what the runs of one row of a table do not share


def provenance(settings: Settings, checksums: dict[str, str]) -> list[str]:
    """Return the entries of a log that tell what a result depends on beside its settings, of one or more lines.

    Args:
        settings: settings of the run.
        checksums: checksums of the data files that it has read.
    """
    made_by = table_origins([Path(settings.logging_dir) / settings.dataset, KEPT / settings.dataset])
    lines = []
    for name, checksum in checksums.items():
        line = f"{name.removeprefix(CHECKSUM)} {checksum}"
        if name.endswith(("_embeddings.pt", SEQUENCE_TABLE)):
            line += f", {made_by.get((name, checksum), 'of unknown origin')}"
        lines.append(line)
    entries = [_entry("Read:", lines)]
    kept = kept_results(settings, checksums)
    return [*entries, _entry("Kept:", kept)] if kept else entries


def _entry(title: str, lines: list[str]) -> str:
    """Return lines as one entry of a log, below each other behind a title."""
    return f"{title:<9}" + f"\n{'':<9}".join(lines)


def table_origins(folders: list[Path]) -> dict[tuple[str, str], str]:
    """Return the program and run that made a table, by the names of its checksum and the checksum.

    Args:
        folders: log folders of a dataset; of equal tables the run in the first one counts.
    """
    origins = {}
    for folder in folders:
        for path, final in _finished_runs(folder):
            program = f"pretrain_{'graph' if 'GNNModel' in (final.settings or {}) else 'sasrec'}"
            run = f"{path.parent.name}/{path.name.removesuffix('_metrics.jsonl')}"
            for table in (final.tables or {}).items():
                origins.setdefault(table, f"by {program}: {run}")
    return origins


def kept_results(settings: Settings, checksums: dict[str, str]) -> list[str]:
    """Return what the kept runs of the same settings give, by the data files that they have read.

    Args:
        settings: settings of the run.
        checksums: checksums of the data files that it has read.
    """
    wanted = _without_varied(settings)
    tests = defaultdict(list)
    for path, final in _finished_runs(KEPT / settings.dataset):
        if final.files and final.popularity and set(final.settings or {}) <= set(vars(settings)):
            try:
                found = _without_varied(restore_settings(Settings, final.settings or {}, path))
            except ValueError:  # a value that this version does not know
                continue
            if found == wanted:
                tests[tuple(final.files.items())].append(final.test)
    lines = []
    for files, found in tests.items():
        means = "  ".join(f"{name} {format_mean([test[name] for test in found])}" for name in RELEASED_METRICS)
        others = [f"  {name.removeprefix(CHECKSUM)} {crc}" for name, crc in files if checksums.get(name) != crc]
        on = "other files" if others else "the same files"
        lines += [f"{len(found)} of these settings, on {on}: {means}", *others]
    return lines


def _without_varied(settings: Settings) -> dict:
    return {name: value for name, value in run_fingerprint(settings).items() if name not in VARIED}


def _finished_runs(folder: Path) -> Iterator[tuple[Path, FinalRecord]]:
    """Yield the records of the tests in a log folder of a dataset; what can't be read is left out."""
    for path in sorted(folder.glob("*/*_metrics.jsonl")):
        try:
            final = read_metrics(path)[1]
        except (ValueError, OSError):
            continue
        if final:
            yield path, final
