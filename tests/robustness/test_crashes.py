"""Programs that are killed, that the disk has no room for, or that another is beside: as if nothing had happened.

Every program is killed once at a random moment, `--kills 30` kills each of them 30 times.
"""

import importlib
import json
import random
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocess.demo_data import make_raw
from tests.support.crash_worker import run_program as work
from tests.support.forks import FORKS, PREPARING, TRAINING
from tests.support.small_data import N_ITEMS, OWN, command, sequences, write_dataset, write_interactions
from tests.training.test_states import holding, refused_as_held
from utils.runtime.lock import LOCK_FILE
from utils.training.checkpoints import PREVIOUS_STATE, STATE



def small(place, *more):
    places = ["--output_dir", str(place / "output"), "--logging_dir", str(place / "log")]
    return ["--dataset", "Small", "--data_dir", str(place / "data"), *places, *more]


class Program:
    """A program on data of its own: `python -m name arguments`.

    Args:
        data: folder to make the data in; arguments: folder to flags; folder: of the state; done: file that ends it.
    """

    def __init__(self, name, data, arguments, folder="", done="") -> None:
        self.name, self.data, self.arguments, self.folder, self.done = name, data, arguments, folder, done

    def make(self, parent: Path) -> Path:
        """A new folder with its data."""
        place = Path(tempfile.mkdtemp(dir=parent))
        self.data(place)
        return place

    def start(self, place: Path, limit: int = 0, state: int = 0, die: bool = False, interrupt: str = "", more=()):
        """In a process that writes `limit` bytes into a file at most, see `work`, with `more` flags."""
        resume = ["--resume"] if self.folder else []
        given = [*self.arguments(place), *resume, *more], str(place / "errors.txt"), limit, state, die, interrupt
        process = FORKS.Process(target=work, args=(self.name, *given))
        process.start()
        return process

    def is_done(self, place: Path) -> bool:
        """Whether the file that ends it is there."""
        return bool(self.done) and (place / self.done).exists()

    def run(self, place: Path) -> None:
        """To the end; it refuses to begin again where it was there before it was killed."""
        was_done = self.is_done(place)
        process = self.start(place)
        process.join()
        assert process.exitcode == (2 if was_done else 0), (place / "errors.txt").read_text()

    def state(self, place: Path, name: str = STATE) -> Path:
        return place / "output" / "Small" / self.folder / name


def graph_data(place):
    folder = write_interactions(place / "data")
    np.save(folder / "image_feat.npy", np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32))


def picture_data(place):
    folder = write_interactions(place / "data")
    (folder / "pictures").mkdir()
    for item, colours in enumerate(np.random.default_rng(0).integers(256, size=(N_ITEMS - 5, 9, 8, 3), dtype=np.uint8)):
        Image.fromarray(colours).save(folder / "pictures" / f"A{item}.png")
    (folder / "i_id_mapping.csv").write_text("item_id,asin\n" + "".join(f"{i},A{i}\n" for i in range(N_ITEMS)))


def own_table(place):
    colours = np.random.default_rng(0).integers(256, size=(N_ITEMS, 9, 8, 3), dtype=np.uint8)
    for item, of_one in enumerate(colours):
        Image.fromarray(of_one).save(place / f"{item}.png")
    rows = [(user, item, time) for user, items in enumerate(sequences()) for time, item in enumerate(items)]
    lines = [f"u{user},{item},{time},thing {item},{item}.png" for user, item, time in rows]
    (place / "table.csv").write_text("\n".join(["user,item,time,title,picture", *lines]) + "\n")


LIMIT = 20_000  # bytes, less than a state
OFTEN = ("--save_every_minutes", "0.002")
EPOCHS = ("--num_epochs", "4", "--validate_every", "2", *OFTEN)
PROGRAMS = [
    Program(
        TRAINING[0],
        lambda place: write_dataset(place / "data"),
        lambda place: command(place, "--batch_size", "40", "--n_layers", "1", *OFTEN),
        "MMHCL/tiny",
    ),
    Program(
        TRAINING[1],
        graph_data,
        lambda place: small(place, "--embed_dim", "8", "--batch_size", "128", "--topk", "4", *EPOCHS),
        "MMHCL/pretrain",
    ),
    Program(
        TRAINING[2],
        lambda place: write_interactions(place / "data"),
        lambda place: small(place, "--width", "8", "--hidden", "12", "--batch_size", "32", *EPOCHS),
        "SASRec/pretrain",
    ),
    Program(
        PREPARING[0],
        lambda place: make_raw(place / "data"),
        lambda place: ["--dataset", "Demo", "--data_dir", str(place / "data")],
        done="data/sequential/Demo/Demo.txt",
    ),
    Program(
        PREPARING[1],
        picture_data,
        lambda place: ["image", *small(place)[:4], "--shard_size", "4", "--encoder", "histogram", "--batch_size", "2"],
        done="data/sequential/Small/image_feat.npy",
    ),
    Program(
        PREPARING[2],
        own_table,
        lambda place: [str(place / "table.csv"), *small(place)[:4]],
        done="data/sequential/Small/Small.txt",
    ),
]
EVERY = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
PREPARED = pytest.mark.parametrize("program", PROGRAMS[3:], ids=PREPARING)
PASSED_OVER = "_log.txt", ".png", LOCK_FILE
TRAINED = pytest.mark.parametrize("program", PROGRAMS[:3], ids=TRAINING)


def results(place: Path) -> dict:
    """Everything in a folder but times, states, logs, pictures of curves, and who was there."""
    found = {}
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        name = str(path.relative_to(place))
        if path.suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in record.items() if key not in OWN} for record in records]
        elif path.name not in (STATE, PREVIOUS_STATE, "errors.txt") and not path.name.endswith(PASSED_OVER):
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function from a program to what it makes undisturbed, and the seconds that takes."""
    known, first = {}, FORKS.Process(target=int)
    first.start()  # waits for all imports
    first.join()

    def of(program: Program) -> tuple[dict, float]:
        if program.name not in known:
            place = program.make(tmp_path_factory.mktemp("whole"))
            started = time.monotonic()
            program.run(place)
            known[program.name] = results(place), time.monotonic() - started
        return known[program.name]

    return of


@EVERY
def test_killed_at_random_moments(program, whole, tmp_path, request):
    (expected, seconds), moments = whole(program), random.Random(program.name)
    left = request.config.getoption("--kills")
    while left:
        place = program.make(tmp_path)
        while left and not program.is_done(place):
            process = program.start(place)
            process.join(moments.uniform(0, seconds))
            if not process.is_alive():
                assert process.exitcode == 0, (place / "errors.txt").read_text()
                break
            process.kill()
            process.join()
            left -= 1
        program.run(place)
        assert results(place) == expected


@TRAINED
def test_killed_while_a_state_is_written(program, whole, tmp_path):
    place = program.make(tmp_path)
    process = program.start(place, LIMIT, state=2, die=True)
    process.join()
    assert process.exitcode == -signal.SIGXFSZ, (place / "errors.txt").read_text()
    assert 0 < program.state(place, STATE + ".tmp").stat().st_size <= LIMIT < program.state(place).stat().st_size
    program.run(place)
    assert results(place) == whole(program)[0]


@TRAINED
def test_a_disk_that_fills_up_in_training(program, whole, tmp_path):
    place = program.make(tmp_path)
    process = program.start(place, LIMIT, state=2)
    process.join()
    message = (place / "errors.txt").read_text().splitlines()[-1]
    assert process.exitcode == 1, message
    assert message.startswith(f"error: {program.state(place)}: no room on the disk at /")
    needed = int(message.split(": the file takes ")[1].split(" bytes")[0].replace(",", ""))
    assert LIMIT < needed <= program.state(place).stat().st_size
    assert not list(place.rglob("*.tmp"))
    program.run(place)
    assert results(place) == whole(program)[0]


@PREPARED
def test_a_full_disk_in_preprocessing(program, whole, tmp_path):
    place = program.make(tmp_path)
    process = program.start(place, limit=500)
    process.join()
    assert process.exitcode == 1
    message = (place / "errors.txt").read_text().splitlines()[-1]
    assert message.startswith(f"error: {place}/data/sequential/") and "no room on the disk at /" in message
    assert not (place / program.done).exists()
    program.run(place)
    assert results(place) == whole(program)[0]


OTHER = ("--overwrite", "--k_core", "7")  # users and items than before


@pytest.mark.parametrize("program", PROGRAMS[3::2], ids=PREPARING[::2])
def test_a_dataset_stays_until_another_is_written(program, tmp_path):
    place, fresh = program.make(tmp_path), program.make(tmp_path)
    program.run(place)
    before = results(place)
    for limit in (500, 2000):
        process = program.start(place, limit, more=OTHER)
        process.join()
        message = (place / "errors.txt").read_text()
        assert process.exitcode == 1 and "no room on the disk at /" in message and message.count("\n") == 1
        assert results(place) == before and not list(place.rglob("*.parts"))
        process = program.start(place, limit, die=True, more=OTHER)
        process.join()
        assert process.exitcode == -signal.SIGXFSZ
        assert {name: content for name, content in results(place).items() if ".parts/" not in name} == before
    process = program.start(place, interrupt=".parts/5-core/val.json", more=OTHER)
    process.join()
    assert process.exitcode == 128 + signal.SIGINT and (place / "errors.txt").read_text().count("\n") == 1
    assert results(place) == before
    swapped = str((place / program.done).with_name("5-core") / "val.json")  # too late to stop
    for folder, moment in ((place, swapped), (fresh, "")):
        process = program.start(folder, interrupt=moment, more=OTHER)
        process.join()
        assert process.exitcode == 0
    assert results(place) == results(fresh) != before


@PREPARED
def test_of_two_at_once_one_is_refused(program, whole, tmp_path):
    place = program.make(tmp_path)
    both = [program.start(place) for _ in range(2)]
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) == [0, 2]
    assert results(place) == whole(program)[0]


@PREPARED
def test_a_second_run_is_told_who_writes_the_files(program, whole, tmp_path, capsys):
    place = program.make(tmp_path)
    done, argv, main = place / program.done, program.arguments(place), importlib.import_module(program.name).main
    held, separator, flag, first = done.parent, "/", "--data_dir", []
    if done.suffix == ".npy":
        held, separator, flag, first = done.with_suffix(""), "_", "--name", argv[:1]
    with holding(held, separator) as holder:
        more = argv[len(first) :], held, holder, place, capsys, flag
        refused_as_held(lambda argv: main([*first, *argv]), *more)
    program.run(place)
    assert results(place) == whole(program)[0]
