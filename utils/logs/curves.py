"""The curves of a run: training loss and validation metrics over the epochs."""

import io
import math

from utils.evaluation.metrics import HEADLINE_METRICS
from utils.logs.records import EpochRecord, FinalRecord

PANEL_WIDTH = 3.4  # inches
HEIGHT = 3.6
LEGEND_WIDTH = 2.0
CHOSEN_STYLE = {"color": "0.6", "linewidth": 6, "alpha": 0.4}  # of a line behind the chosen epoch


def plot_curves(
    title: str, epochs: list[EpochRecord], final: FinalRecord | None, published: dict, is_published_loss: bool = True
) -> bytes:
    """Plot the curves of a run; return a PNG file. The arguments are those of `curves_figure`."""
    png = io.BytesIO()
    curves_figure(title, epochs, final, published, is_published_loss).savefig(png, dpi=120, format="png")
    return png.getvalue()


def curves_figure(
    title: str, epochs: list[EpochRecord], final: FinalRecord | None, published: dict, is_published_loss: bool
) -> "Figure":  # noqa: F821
    """Plot the training loss, and the validation metrics in one panel per kind; return the matplotlib figure.

    Args:
        title: text above the panels.
        epochs: records of at least one epoch.
        final: the test, plotted as diamonds at the chosen epoch.
        published: the authors' log from `published_log`, plotted as dotted lines; may be empty.
        is_published_loss: whether the published loss is the same function, so that the two can be compared.
    """
    from matplotlib.figure import Figure  # slow to import, and most processes do not plot

    panels = {}  # kind of metric to names, such as Recall to Recall@10 and Recall@20
    for name in HEADLINE_METRICS:
        panels.setdefault(name.partition("@")[0], []).append(name)
    width = PANEL_WIDTH * (1 + len(panels)) + LEGEND_WIDTH
    figure = Figure(figsize=(width, HEIGHT))
    # Fixed margins take half the time of a layout that is computed for each plot
    right = 1 - LEGEND_WIDTH / width
    figure.subplots_adjust(left=0.6 / width, right=right, bottom=0.14, top=0.82, wspace=0.26)
    loss_axes, *metric_axes = figure.subplots(1, 1 + len(panels))

    numbers = [record.epoch for record in epochs]
    loss_axes.plot(numbers, [record.train_loss for record in epochs], "ko-", markersize=3)
    if published and is_published_loss:
        loss_axes.plot(published["epoch"], published["train_loss"], "k:", linewidth=1)
    colors = {}  # by cutoff
    for axes, names in zip(metric_axes, panels.values(), strict=True):
        for name in names:
            color = colors.setdefault(name.partition("@")[2], f"C{len(colors)}")
            values = [record.val.get(name, math.nan) for record in epochs]  # earlier versions may lack a metric
            axes.plot(numbers, values, f"{color}o-", markersize=3)
            if name in published:
                axes.plot(published["epoch"], published[name], f"{color}:", linewidth=1)
            if final and name in final.test:
                axes.plot(final.best_epoch, final.test[name], f"{color}D", markeredgecolor="k")
        axes.set_ylim(bottom=0)

    titles = ["training loss (nats)", *(f"validation {kind}" for kind in panels)]
    for axes, text in zip([loss_axes, *metric_axes], titles, strict=True):
        axes.set_title(text, fontsize="medium")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if final and final.best_epoch is not None:
            axes.axvline(final.best_epoch, **CHOSEN_STYLE, zorder=0)
    figure.suptitle(title, fontsize="large", parse_math=False)  # a "$" in a name is no formula
    handles = _legend_handles(colors, final, published)
    figure.legend(handles=handles, loc="center left", bbox_to_anchor=(right, 0.5), frameon=False, fontsize="medium")
    return figure


def _legend_handles(colors: dict[str, str], final: FinalRecord | None, published: dict) -> list:
    """Return an entry per cutoff of the metrics, and what else is plotted."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, marker="o", markersize=3, label=f"@{k}") for k, color in colors.items()]
    if final and final.best_epoch is not None:
        handles.append(Line2D([], [], **CHOSEN_STYLE, label=f"chosen epoch, {final.best_epoch}"))
        diamond = {"marker": "D", "markerfacecolor": "0.6", "markeredgecolor": "k", "linestyle": "none"}
        handles.append(Line2D([], [], **diamond, label="its test"))
    if published:
        handles.append(Line2D([], [], color="k", linestyle=":", linewidth=1, label=f"published {published['split']}"))
    return handles
