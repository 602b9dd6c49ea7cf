"""Tables of a report as Markdown and as one HTML file: no script, no request, light and dark."""

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

PLOTTED_METRIC = "NDCG@10"  # the column whose intervals are drawn as well
STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --soft: #5a6672; --line: #d9dee3; --page: #fff; --raised: #f4f6f8;
  --ours: #1668b8; --theirs: #b4540a; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e8ed; --soft: #98a4b0; --line: #343c45; --page: #14181d;
  --raised: #1d232a; --ours: #6cb2f2; --theirs: #f0a35e; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 100rem; color: var(--text); background: var(--page);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { margin-top: 2.5rem; font-size: 1.25rem; } h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
p { max-width: 60rem; } .soft, small { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .87rem; }
th, td { padding: .3rem .65rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th { background: var(--raised); } .number { text-align: right; }
td:nth-child(2) { white-space: normal; min-width: 15rem; } td small { display: block; }
tr.published { background: var(--raised); color: var(--theirs); --ours: var(--theirs); }
img { max-width: 100%; border-radius: 6px; background: #fff; } svg { display: block; margin-left: auto; }
.range { stroke: var(--ours); stroke-width: 2; } .point { fill: var(--ours); }
.mark { stroke: var(--theirs); stroke-dasharray: 2 2; }
"""


@dataclass(frozen=True)
class MetricValue:
    """A metric and, where ranks are known, the ends of its interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; without one, the value itself."""
        return (self.value, self.value) if self.low is None else (self.low, self.high)

    def __str__(self) -> str:
        return f"{self.value:.4f}" if self.low is None else f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Table:
    """Rows of text and figures, the published ones first."""

    title: str
    header: list[str]
    rows: list[list[str | MetricValue]]
    n_published: int = 0


@dataclass
class Section:
    """What is told of a dataset."""

    title: str
    verdict: str
    picture: Path | None
    tables: list[Table]


def table_to_markdown(table: Table) -> str:
    """A title, where there is one, and the table."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    rows = ("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"### {table.title}\n\n" * bool(table.title) + "\n".join(rows) + "\n"


def to_markdown(title: str, notes: list[str], sections: list[Section], folder: Path) -> str:
    """The whole report; pictures are named as seen from `folder`."""
    parts = [f"# {title}\n", *(f"* **{section.title}**, {section.verdict}" for section in sections), ""]
    parts += [f"{note}\n" for note in notes]
    for section in sections:
        parts.append(f"## {section.title}\n")
        if section.picture:
            parts.append(f"![Loss and metrics of {section.picture.stem}]({section.picture.relative_to(folder)})\n")
        parts += map(table_to_markdown, section.tables)
    return "\n".join(parts)


def to_html(title: str, notes: list[str], sections: list[Section]) -> str:
    """The whole report as one page, pictures within it."""
    listed = (f"<li><b>{escape(section.title)}</b>, {escape(section.verdict)}</li>" for section in sections)
    parts = [f"<h1>{escape(title)}</h1>", "<ul>", *listed, "</ul>"]
    parts += (f'<p class="soft">{escape(note)}</p>' for note in notes)
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.picture:
            content, name = base64.b64encode(section.picture.read_bytes()).decode(), escape(section.picture.stem)
            parts.append(f'<img src="data:image/png;base64,{content}" alt="Loss and metrics of {name}">')
        parts += map(_table_to_html, section.tables)
    return as_page(title, parts)


def as_page(title: str, parts: list[str], more_style: str = "") -> str:
    """A whole page from the parts of its body."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    # An icon of its own, else browsers ask for one
    head += f'<link rel="icon" href="data:,"><style>{STYLE}{more_style}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table_to_html(table: Table) -> str:
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    aligned = [' class="number"' * any(map(_is_number, cells)) for cells in columns]
    header = "".join(f"<th{how}>{escape(name)}</th>" for name, how in zip(table.header, aligned, strict=True))
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(f"<td{aligned[column]}>{_cell(table, column, cell)}</td>" for column, cell in enumerate(row))
        kind = ' class="published"' * (number < table.n_published)
        rows.append(f"<tr{kind}>{cells}</tr>")
    body = f"<table><thead><tr>{header}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"
    return f'<h3>{escape(table.title)}</h3><div class="wide">{body}</div>'


def _is_number(cell: str | MetricValue) -> bool:
    return isinstance(cell, MetricValue) or cell.replace(",", "").replace(".", "").isdigit()


def _cell(table: Table, column: int, cell: str | MetricValue) -> str:
    if isinstance(cell, str):
        return escape(cell)
    value, _, interval = str(cell).partition(" ")
    if interval:
        interval = f"<small>{interval}</small>"
    return value + interval + (_interval_svg(table, column, cell) if table.header[column] == PLOTTED_METRIC else "")


def _interval_svg(table: Table, column: int, figure: MetricValue) -> str:
    """The interval as a line from 0 to the column's largest end, with the first published figure across."""
    width, height = 120, 10
    top = max(row[column].ends[1] for row in table.rows if isinstance(row[column], MetricValue)) or 1
    low, value, high = (width * x / top for x in (figure.ends[0], figure.value, figure.ends[1]))
    shapes = f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="5" y2="5"/>'
    shapes += f'<circle class="point" cx="{value:.1f}" cy="5" r="2.5"/>'
    if table.n_published:
        x = width * table.rows[0][column].value / top
        shapes = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>' + shapes
    return f'<svg width="{width + 6}" height="{height}" viewBox="-3 0 {width + 6} {height}">{shapes}</svg>'
