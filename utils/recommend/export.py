"""Write the recommendations of all users to a file that other programs read: CSV or Parquet."""

import contextlib
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.io.atomic import atomic_write
from utils.recommend.recommender import Recommended, Recommender

COLUMNS = ("user", "rank", "item", "title", "score")
Row = tuple[str, Recommended]  # a user and a recommendation
WriteRows = Callable[[list[Row]], None]


def write_recommendations(path: Path, recommender: Recommender, k: int, seen: bool) -> None:
    """Write the k best items of every user, in order of our numbers; the file is replaced as a whole.

    Args:
        path: file ending in .csv or .parquet.
        recommender: the run.
        k: number of items per user.
        seen: also recommend items of a user's history.

    Raises:
        DiskFullError: the disk is full; what was at `path` is still there.
    """
    open_writer = _open_parquet if path.suffix == ".parquet" else _open_csv
    n_rows = 0
    with atomic_write(path) as temporary, open_writer(temporary) as write_rows:
        for block in recommender.recommend_all(k, seen):
            rows = list(recommender.rows(block))
            write_rows(rows)
            n_rows += len(rows)
    print(f"written: {path} ({recommender.data.n_users:,} users, {n_rows:,} recommendations)")


@contextlib.contextmanager
def _open_csv(path: Path) -> Iterator[WriteRows]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)

        def write_rows(rows: list[Row]) -> None:
            writer.writerows((user, found.rank, found.item, found.title, f"{found.score:.6g}") for user, found in rows)

        yield write_rows


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[WriteRows]:
    import pyarrow as pa  # optional
    from pyarrow import parquet

    types = (pa.string(), pa.int32(), pa.string(), pa.string(), pa.float64())
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    with parquet.ParquetWriter(path, schema) as writer:

        def write_rows(rows: list[Row]) -> None:
            columns = [[user for user, _ in rows]]
            columns += [[getattr(found, name) for _, found in rows] for name in COLUMNS[1:]]
            writer.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True)), schema))

        yield write_rows
