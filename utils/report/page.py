"""Reports as Markdown, and as one HTML file without scripts or requests, in light and dark."""

import base64
import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROW_KINDS = ("published", "mean", "seed", "")  # of several seeds, and one of these seeds
PLOTTED_METRIC = "NDCG@10"  # the column whose intervals are also plotted
TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class MetricValue:
    """A metric and, if the ranks are known, the bounds of its 95 % interval; of several seeds mean and deviation."""

    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None  # sample standard deviation over seeds

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds of the interval, or mean ∓ deviation; without either, the value itself."""
        if self.deviation is not None:
            return self.value - self.deviation, self.value + self.deviation
        return (self.value, self.value) if self.low is None else (self.low, self.high)

    @property
    def interval(self) -> str:
        """The interval or the deviation as text, "" without either."""
        if self.deviation is not None:
            return f"± {self.deviation:.4f}"
        return "" if self.low is None else f"[{self.low:.4f}, {self.high:.4f}]"

    def __str__(self) -> str:
        return f"{self.value:.4f} {self.interval}".rstrip()


@dataclass(frozen=True)
class Table:
    """Rows of text and metrics, the published ones first.

    A row's kind, on which its style in the page depends, is one of ROW_KINDS; without kinds, all rows are plain.
    """

    title: str
    header: list[str]
    rows: list[list[str | MetricValue]]
    kinds: list[str] = field(default_factory=list)

    @property
    def n_published(self) -> int:
        """The number of published rows."""
        return self.kinds.count("published")

    def kind(self, row: int) -> str:
        """Return the kind of a row."""
        return self.kinds[row] if self.kinds else ""

    def is_numeric(self, column: int) -> bool:
        """Tell whether a column has numbers, which are aligned to the right."""
        cells = [row[column] for row in self.rows]
        return any(isinstance(cell, MetricValue) or _is_number(cell) for cell in cells)

    def largest(self, column: int) -> float:
        """Return the largest bound of a column's intervals, 1 if it is 0."""
        return max(row[column].bounds[1] for row in self.rows if isinstance(row[column], MetricValue)) or 1


@dataclass
class Section:
    """One dataset of a report."""

    title: str
    verdict: str
    picture: Path | None
    tables: list[Table]


def table_to_markdown(table: Table) -> str:
    """Format a table, under its title if it has one."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    rows = ("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    heading = f"### {table.title}\n\n" if table.title else ""
    return heading + "\n".join(rows) + "\n"


def to_markdown(title: str, note: str, sections: list[Section], folder: Path) -> str:
    """Format a report; pictures are linked relative to `folder`."""
    parts = [f"# {title}\n", *(f"* **{section.title}**, {section.verdict}" for section in sections), "", f"{note}\n"]
    for section in sections:
        parts.append(f"## {section.title}\n")
        if section.picture:
            link = os.path.relpath(section.picture, folder)
            parts.append(f"![Loss and metrics of {section.picture.stem}]({link})\n")
        parts += map(table_to_markdown, section.tables)
    return "\n".join(parts)


def to_html(title: str, note: str, sections: list[Section]) -> str:
    """Format a report as one page that contains its pictures."""
    template = TEMPLATES / "report.html"
    return render(template, title=title, note=note, sections=sections, plotted_metric=PLOTTED_METRIC)


def render(template: Path, **values: object) -> str:
    """Render a template, which may extend `page.html`. All values are escaped."""
    return _environment(template.parent).get_template(template.name).render(values)


@functools.cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    return environment


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").isdigit()
