"""Programs that are killed, run out of disk space or run twice at once end as if nothing had happened.

Every program is killed once at a random moment; `--kills 30` kills each of them 30 times.
"""

import importlib
import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocess.demo_data import make_raw
from tests.support.crash_worker import run_program
from tests.support.forks import FORKS, PREPARING, TRAINING
from tests.support.small_data import N_ITEMS, RUN_SPECIFIC_KEYS, command, sequences, write_dataset, write_interactions
from tests.training.test_states import holding, refused_as_held
from utils.runtime.lock import LOCK_FILE
from utils.training.run_files import PREVIOUS_STATE, STATE

IMAGE_SHAPE = (9, 8, 3)
SMALL_LIMIT = 20_000  # bytes, fewer than a training state has


@dataclass(frozen=True)
class Program:
    """A program, and the folder that it runs in."""

    name: str  # module
    write_data: Callable[[Path], object]  # writes the input files into a folder
    flags: Callable[[Path], list[str]]  # flags to run in a folder
    state_folder: str = ""  # where it writes training states; empty: it trains nothing
    output: str = ""  # file that it writes last and refuses to overwrite

    def start(self, place: Path, *more: str, **crash):
        """Start it in a process; `crash` are arguments of `crash_worker.run_program`."""
        resume = ["--resume"] if self.state_folder else []
        argv = [*self.flags(place), *resume, *more]
        process = FORKS.Process(target=run_program, args=(self.name, argv, str(place / "errors.txt")), kwargs=crash)
        process.start()
        return process

    def exit_status(self, place: Path, *more: str, **crash) -> int:
        """Run it until it ends, and return its exit status, or minus the signal that killed it."""
        process = self.start(place, *more, **crash)
        process.join()
        return process.exitcode

    def has_output(self, place: Path) -> bool:
        return bool(self.output) and (place / self.output).exists()

    def complete(self, place: Path) -> None:
        """Run it to its end; it must refuse to run where its output is complete already."""
        expected = 2 if self.has_output(place) else 0
        assert self.exit_status(place) == expected, errors(place)

    def state(self, place: Path, name: str = STATE) -> Path:
        return place / "output" / "Small" / self.state_folder / name


def errors(place: Path) -> str:
    """Return what the last program in a folder has written to standard error."""
    return (place / "errors.txt").read_text()


def small(place: Path, *more: str) -> list[str]:
    folders = ["--output_dir", str(place / "output"), "--logging_dir", str(place / "log")]
    return ["--dataset", "Small", "--data_dir", str(place / "data"), *folders, *more]


def write_features(place: Path) -> None:
    folder = write_interactions(place / "data")
    np.save(folder / "image_feat.npy", np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32))


def write_images(place: Path) -> None:
    folder = write_interactions(place / "data")
    (folder / "pictures").mkdir()
    shape = (N_ITEMS - 5, *IMAGE_SHAPE)
    for item, pixels in enumerate(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / "pictures" / f"A{item}.png")
    (folder / "i_id_mapping.csv").write_text("item_id,asin\n" + "".join(f"{i},A{i}\n" for i in range(N_ITEMS)))


def write_csv(place: Path) -> None:
    shape = (N_ITEMS, *IMAGE_SHAPE)
    for item, pixels in enumerate(np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)):
        Image.fromarray(pixels).save(place / f"{item}.png")
    rows = [(user, item, time) for user, items in enumerate(sequences()) for time, item in enumerate(items)]
    lines = [f"u{user},{item},{time},thing {item},{item}.png" for user, item, time in rows]
    (place / "table.csv").write_text("\n".join(["user,item,time,title,picture", *lines]) + "\n")


SAVE_OFTEN = ("--save_every_minutes", "0.002")
EPOCHS = ("--num_epochs", "4", "--validate_every", "2", *SAVE_OFTEN)
FINE_TUNING = Program(
    TRAINING[0],
    lambda place: write_dataset(place / "data"),
    lambda place: command(place, "--batch_size", "40", "--n_layers", "1", *SAVE_OFTEN),
    state_folder="MMHCL/tiny",
)
GRAPH_TRAINING = Program(
    TRAINING[1],
    write_features,
    lambda place: small(place, "--embed_dim", "8", "--batch_size", "128", "--topk", "4", *EPOCHS),
    state_folder="MMHCL/pretrain",
)
SEQUENCE_TRAINING = Program(
    TRAINING[2],
    lambda place: write_interactions(place / "data"),
    lambda place: small(place, "--width", "8", "--hidden", "12", "--batch_size", "32", *EPOCHS),
    state_folder="SASRec/pretrain",
)
AMAZON = Program(
    PREPARING[0],
    lambda place: make_raw(place / "data"),
    lambda place: ["--dataset", "Demo", "--data_dir", str(place / "data")],
    output="data/sequential/Demo/Demo.txt",
)
FEATURES = Program(
    PREPARING[1],
    write_images,
    lambda place: ["image", *small(place)[:4], "--shard_size", "4", "--encoder", "histogram", "--batch_size", "2"],
    output="data/sequential/Small/image_feat.npy",
)
OWN_DATA = Program(
    PREPARING[2],
    write_csv,
    lambda place: [str(place / "table.csv"), *small(place)[:4]],
    output="data/sequential/Small/Small.txt",
)


def each_of(*programs: Program):
    return pytest.mark.parametrize("program", programs, ids=lambda program: program.name)


each_training = each_of(FINE_TUNING, GRAPH_TRAINING, SEQUENCE_TRAINING)
each_preparing = each_of(AMAZON, FEATURES, OWN_DATA)
NOT_COMPARED = (
    "_log.txt",
    "_steps.csv",
    "_settings.toml",  # names the folders, which differ
    ".png",
    LOCK_FILE,
)  # with times; a resumed run reads its losses at other steps


def results(place: Path) -> dict:
    """Read every file of a folder but logs, plots, locks and training states; records without times."""
    found = {}
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        name = str(path.relative_to(place))
        if path.suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [
                {key: value for key, value in record.items() if key not in RUN_SPECIFIC_KEYS} for record in records
            ]
        elif path.name not in (STATE, PREVIOUS_STATE, "errors.txt") and not path.name.endswith(NOT_COMPARED):
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def make_place(tmp_path_factory):
    """Return a function from a program to a new folder with its input files."""
    parent = tmp_path_factory.mktemp("places")
    templates = {}

    def make(program: Program) -> Path:
        if program.name not in templates:
            templates[program.name] = Path(tempfile.mkdtemp(dir=parent))
            program.write_data(templates[program.name])
        place = Path(tempfile.mkdtemp(dir=parent))
        return shutil.copytree(templates[program.name], place, dirs_exist_ok=True)

    return make


@pytest.fixture(scope="module")
def undisturbed(make_place):
    """Return a function from a program to its results without a crash, and the seconds that it takes."""
    known = {}
    first = FORKS.Process(target=int)  # so that no time includes the imports of the fork server
    first.start()
    first.join()

    def run(program: Program) -> tuple[dict, float]:
        if program.name not in known:
            place = make_place(program)
            start = time.monotonic()
            program.complete(place)
            known[program.name] = results(place), time.monotonic() - start
        return known[program.name]

    return run


@pytest.mark.slow
@each_of(FINE_TUNING, GRAPH_TRAINING, SEQUENCE_TRAINING, AMAZON, FEATURES, OWN_DATA)
def test_killed_at_random_moments(program, undisturbed, make_place, request):
    expected, seconds = undisturbed(program)
    moments = random.Random(program.name)
    n_left = request.config.getoption("--kills")
    while n_left:
        place = make_place(program)
        while n_left and not program.has_output(place):
            process = program.start(place)
            process.join(moments.uniform(0, seconds))
            if not process.is_alive():
                assert process.exitcode == 0, errors(place)
                break
            process.kill()
            process.join()
            n_left -= 1
        program.complete(place)
        assert results(place) == expected


@pytest.mark.slow
@each_training
def test_killed_while_a_state_is_written(program, undisturbed, make_place):
    place = make_place(program)
    assert program.exit_status(place, limit=SMALL_LIMIT, state=2, die=True) == -signal.SIGXFSZ, errors(place)
    partial = program.state(place, STATE + ".tmp").stat().st_size
    assert 0 < partial <= SMALL_LIMIT < program.state(place).stat().st_size
    program.complete(place)
    assert results(place) == undisturbed(program)[0]


@pytest.mark.slow
@each_training
def test_a_disk_that_fills_up_in_training(program, undisturbed, make_place):
    place = make_place(program)
    status = program.exit_status(place, limit=SMALL_LIMIT, state=2)
    message = errors(place).splitlines()[-1]
    assert status == 1, message
    assert message.startswith(f"error: {program.state(place)}: no room on the disk at /")
    needed = int(message.split(": the file takes ")[1].split(" bytes")[0].replace(",", ""))
    assert SMALL_LIMIT < needed <= program.state(place).stat().st_size
    assert not list(place.rglob("*.tmp"))
    program.complete(place)
    assert results(place) == undisturbed(program)[0]


@each_preparing
def test_a_disk_that_fills_up_in_preprocessing(program, undisturbed, make_place):
    place = make_place(program)
    assert program.exit_status(place, limit=500) == 1
    message = errors(place).splitlines()[-1]
    assert message.startswith(f"error: {place}/data/sequential/")
    assert "no room on the disk at /" in message
    assert not (place / program.output).exists()
    program.complete(place)
    assert results(place) == undisturbed(program)[0]


@pytest.mark.slow
@each_of(AMAZON, OWN_DATA)
def test_a_dataset_stays_until_another_is_written(program, make_place):
    place = make_place(program)
    fresh = make_place(program)
    program.complete(place)
    before = results(place)
    other = ("--overwrite", "--k_core", "7")  # other users and items than before
    for limit in (500, 2000):
        assert program.exit_status(place, *other, limit=limit) == 1
        assert "no room on the disk at /" in errors(place)
        assert errors(place).count("\n") == 1
        assert results(place) == before
        assert not list(place.rglob("*.parts"))
        assert program.exit_status(place, *other, limit=limit, die=True) == -signal.SIGXFSZ
        assert {name: content for name, content in results(place).items() if ".parts/" not in name} == before
    assert program.exit_status(place, *other, interrupt=".parts/5-core/val.json") == 128 + signal.SIGINT
    assert errors(place).count("\n") == 1
    assert results(place) == before
    swapped = (place / program.output).with_name("5-core") / "val.json"  # written when it is too late to stop
    assert program.exit_status(place, *other, interrupt=str(swapped)) == 0
    assert program.exit_status(fresh, *other) == 0
    assert results(place) == results(fresh) != before


@each_preparing
def test_one_of_two_simultaneous_runs_is_refused(program, undisturbed, make_place):
    place = make_place(program)
    both = [program.start(place) for _ in range(2)]
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) == [0, 2]
    assert results(place) == undisturbed(program)[0]


@each_preparing
def test_a_refused_second_run_names_the_process_that_writes_the_files(program, undisturbed, make_place, capsys):
    place = make_place(program)
    main = importlib.import_module(program.name).main
    output = place / program.output
    argv = program.flags(place)
    if program is FEATURES:
        subcommand = argv.pop(0)
        with holding(output.with_suffix(""), is_prefix=True) as holder:
            refused_as_held(
                lambda argv: main([subcommand, *argv]), argv, output.with_suffix(""), holder, place, capsys, "--name"
            )
    else:
        with holding(output.parent) as holder:
            refused_as_held(main, argv, output.parent, holder, place, capsys, "--data_dir")
    program.complete(place)
    assert results(place) == undisturbed(program)[0]
