"""The curves of a run: training loss and validation metrics over the epochs."""

import io
import math

from utils.evaluation.metrics import HEADLINE_METRICS
from utils.logs.records import EpochRecord, FinalRecord


def plot_curves(title: str, epochs: list[EpochRecord], final: FinalRecord | None, published: dict) -> bytes:
    """Plot the training loss and the validation metrics side by side; return a PNG file.

    Args:
        title: text above the loss.
        epochs: records of at least one epoch.
        final: the test, plotted as diamonds at the best epoch.
        published: the authors' log from `published_log`, plotted as dotted lines; may be empty.
    """
    from matplotlib.figure import Figure  # slow to import, and most processes do not plot

    figure = Figure(figsize=(9, 3.5))
    # Fixed margins take half the time of a layout that is computed for each plot
    figure.subplots_adjust(left=0.09, right=0.985, bottom=0.13, top=0.92, wspace=0.15)
    loss_axes, metric_axes = figure.subplots(1, 2)

    numbers = [record.epoch for record in epochs]
    loss_axes.plot(numbers, [record.train_loss for record in epochs], "C0o-", markersize=3)
    if published:
        loss_axes.plot(published["epoch"], published["train_loss"], "C0:", linewidth=1)
    for color, name in enumerate(HEADLINE_METRICS):
        values = [record.val.get(name, math.nan) for record in epochs]  # earlier versions may lack a metric
        metric_axes.plot(numbers, values, f"C{color}o-", markersize=3, label=name)
        if name in published:
            metric_axes.plot(published["epoch"], published[name], f"C{color}:", linewidth=1)
        if final and name in final.test:
            metric_axes.plot(final.best_epoch, final.test[name], f"C{color}D", markeredgecolor="k")

    loss_axes.set(xlabel="epoch", ylabel="training loss (nats)")
    loss_axes.set_title(title, fontsize="medium", parse_math=False)  # a "$" in a name is no formula
    parts = ["validation"]
    if final:
        parts.append("diamonds: test")
    if published:
        parts.append(f"dotted: published {published['split']}")
    metric_axes.set(xlabel="epoch", ylim=(0, None))
    metric_axes.set_title(", ".join(parts), fontsize="medium")
    metric_axes.legend(frameon=False)
    for axes in (loss_axes, metric_axes):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)

    png = io.BytesIO()
    figure.savefig(png, dpi=120, format="png")
    return png.getvalue()
