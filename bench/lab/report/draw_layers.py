"""Where in the model reuse goes wrong: errors of K and V by layer, and attention beside divergence by question."""
import math

import matplotlib.lines
import numpy

import results as lab
import style

# Attention nearer than this to that of full recomputation differs by rounding; it has no place on a logarithmic axis.
LEAST_DISTANCE = 1e-6


def _shown(results):
    """Names of the arms to follow: reuse without repair, and the one of ours that was measured on most prompts; of
    several, the first by name."""
    plain, ours = [], {}
    for run in results.runs:
        if run.group == "reuse" and not run.policy and run.arm not in plain:
            plain.append(run.arm)
        if run.policy.startswith(lab.OURS):
            ours[run.arm] = ours.get(run.arm, 0) + 1
    followed = min(ours, key=lambda arm: (-ours[arm], arm), default=None)
    return plain + ([followed] if followed else [])


def _looks(names):
    looks = style.distinct([name for name in names if "+" not in name])
    return {name: looks.get(name) or style.OURS for name in names}


def draw_errors(analysis, folder, png=False):
    """None without errors by layer."""
    results = analysis.results
    sets = [name for name in results.sets() if any(run.k_err for run in results.runs if run.set == name)]
    if not sets:
        return None
    names = _shown(results)
    looks = _looks(names)
    figure, grid = style.panels(2, len(sets), 3.1 if len(sets) > 1 else 5, 2.2, sharex="col", sharey="row")
    drawn = set()
    for column, set_name in enumerate(sets):
        arms = analysis.arms[set_name]
        for row, field in enumerate(("k_err", "v_err")):
            axes = grid[row, column]
            for name in names:
                errors = [getattr(run, field) for run in arms.get(name, {}).values() if getattr(run, field)]
                if errors:
                    means = numpy.mean(errors, axis=0)
                    repaired = "+" in name
                    axes.plot(means, label=name, color=looks[name]["color"], linewidth=2.6 if repaired else 1.5,
                              zorder=4 if repaired else 3)
                    drawn.add(name)
            axes.xaxis.get_major_locator().set_params(integer=True)
        grid[0, column].set_title(style.title(set_name))
        grid[1, column].set_xlabel("layer")
    for axes, name in zip(grid[:, 0], "KV"):
        axes.set_ylim(0, None)
        axes.set_ylabel(f"relative error of {name}")
    handles = [matplotlib.lines.Line2D([], [], color=looks[name]["color"], label=name,
                                       linewidth=2.6 if "+" in name else 1.5) for name in names if name in drawn]
    style.legend_above(figure, handles)
    return style.save(figure, folder, "layers", png)


def _rank_correlation(x, y):
    """Spearman's, ties by their middle rank."""
    def ranks(values):
        _, index, counts = numpy.unique(values, return_inverse=True, return_counts=True)
        return (numpy.cumsum(counts) - (counts - 1) / 2)[index]
    a, b = ranks(x), ranks(y)
    return float(numpy.corrcoef(a, b)[0, 1]) if numpy.std(a) > 0 and numpy.std(b) > 0 else math.nan


def draw_attention(analysis, folder, png=False):
    """None without similarities of attention."""
    results = analysis.results
    names = _shown(results)
    looks = _looks(names)
    runs = [run for run in results.runs
            if run.arm in names and run.attention_cos < 1 - LEAST_DISTANCE and run.kl > lab.EXACT_KL]
    sets = [name for name in results.sets() if any(run.set == name for run in runs)]
    if not sets:
        return None
    figure, grid = style.panels(1, len(sets), 3.1 if len(sets) > 1 else 5, 3.0, sharex=True, sharey=True)
    for set_name, axes in zip(sets, grid[0]):
        inside = [run for run in runs if run.set == set_name]
        for name in names:
            points = [(1 - run.attention_cos, run.kl) for run in inside if run.arm == name]
            if points:
                x, y = zip(*points)
                # Thousands of dots as shapes would make a large file.
                axes.scatter(x, y, s=10, alpha=0.45, linewidths=0, color=looks[name]["color"], rasterized=True)
                axes.plot([numpy.exp(numpy.mean(numpy.log(x)))], [numpy.exp(numpy.mean(numpy.log(y)))],
                          marker=looks[name]["marker"], color=looks[name]["color"], markeredgecolor="white",
                          markersize=14 if "+" in name else 8, zorder=5)
        axes.set_xscale("log")
        axes.set_yscale("log")
        correlation = _rank_correlation([1 - run.attention_cos for run in inside], [run.kl for run in inside])
        axes.set_title(style.title(set_name))
        axes.text(0.02, 0.98, f"Spearman {correlation:.2f}", transform=axes.transAxes, va="top", fontsize=8,
                  color=style.GREY)
        axes.set_xlabel("1 − cosine of the question's attention")
    style.log_ticks(grid[0, 0].xaxis)
    style.log_ticks(grid[0, 0].yaxis)
    grid[0, 0].set_ylabel("KL from full, nats per token")
    handles = [matplotlib.lines.Line2D([], [], linestyle="none", markersize=12 if "+" in name else 7, label=name,
                                       **looks[name]) for name in names if any(run.arm == name for run in runs)]
    style.legend_above(figure, handles)
    return style.save(figure, folder, "attention", png)
