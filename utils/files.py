"""Files that are never half written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it takes the path's place once the block ends without an exception."""
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    temporary.replace(path)
