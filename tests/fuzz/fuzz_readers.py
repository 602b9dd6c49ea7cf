"""Coverage-guided fuzzing of the readers of users' files: a reader may refuse a file with a message, and nothing else.

    pip install -r requirements.txt -r requirements-dev.txt -r requirements-extras.txt
    python tests/fuzz/fuzz_readers.py interactions -max_total_time=600 [CORPUS]

The first argument is a target, a name in raw_targets.py or model_targets.py, flags are libFuzzer's, and the last
argument may be the folder of a corpus; without one, fuzzing starts from one good file. A finding is written to the
current folder as `crash-…`; to read it again, give its path in place of the corpus.
"""

import gzip
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
INSTRUMENTED = [
    "llama",
    "preprocess",
    "utils",
    "gguf",
    "html.parser",
]  # not torch and the like, which would take minutes
ADAPTER_FILE = "best_adapter.pt"
FUZZED_ENTRY = {".pt": "data.pkl", ".pth": "data.pkl", ".npz": "indptr.npy"}  # of a zip archive


def find_targets(root: Path, name: str) -> dict[str, tuple[Path, Callable]]:
    """Write good files below a folder; return target -> the file to fuzz, and the function that reads it.

    The readers of raw files start within seconds, as torch is imported for the other targets only.
    """
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.raw_targets import raw_targets
    targets = raw_targets(root / "raw_targets")
    if name not in targets:
        with atheris.instrument_imports(include=INSTRUMENTED):
            from tests.fuzz.model_targets import model_targets
        targets = model_targets(root / "model_targets", ADAPTER_FILE)
    return targets


def fuzzed_part(path: Path, name: str) -> bytes:
    """Return the part of a good file to fuzz: what is compressed in it, or one entry of a zip archive.

    The archive around the entry has checksums, which mutations would only break.
    """
    if path.suffix in FUZZED_ENTRY:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
            return archive.read(next(entry for entry in entries if entry.endswith(FUZZED_ENTRY[path.suffix])))
    content = path.read_bytes()
    if path.suffix == ".gz" and name != "gzip":
        return gzip.decompress(content)
    return content


def write_fuzzed(path: Path, content: bytes) -> None:
    """Write a mutation of the part to fuzz, inside its archive and with a valid checksum, if the file has them."""
    if path.suffix not in FUZZED_ENTRY:
        path.write_bytes(content)
        return
    with zipfile.ZipFile(path.with_suffix(".good")) as good, zipfile.ZipFile(path, "w") as fuzzed:
        for entry in good.namelist():
            is_fuzzed = entry.endswith(FUZZED_ENTRY[path.suffix])
            fuzzed.writestr(entry, content if is_fuzzed else good.read(entry))
    if path.name == ADAPTER_FILE:
        from utils.io.checksums import CHECKSUM_TRAILER, file_crc32

        crc = int(file_crc32(path), 16)
        with path.open("ab") as file:
            file.write(CHECKSUM_TRAILER % crc)


def fuzz(root: Path, name: str, arguments: list[str]) -> None:
    """Fuzz one target until there is a finding or libFuzzer's arguments end it, which also ends the process."""
    path, read = find_targets(root, name)[name]
    shutil.copy(path, path.with_suffix(".good"))
    corpus = root / "corpus"
    corpus.mkdir()
    (corpus / "good").write_bytes(fuzzed_part(path, name))

    def read_one(content: bytes) -> None:
        write_fuzzed(path, content)
        try:
            read(path)
        except (ValueError, OSError) as error:
            if not str(error).strip():
                raise AssertionError(f"{type(error).__name__} without a message") from error

    has_corpus = any(not argument.startswith("-") for argument in arguments)
    corpora = [] if has_corpus else [str(corpus)]
    atheris.Setup([sys.argv[0], *arguments, *corpora], read_one)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(Path(tempfile.mkdtemp()), sys.argv[1], sys.argv[2:])
