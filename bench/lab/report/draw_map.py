"""The map of when reuse holds: planes as heat maps with the noise floor as their contour, single axes as curves."""
import math

import matplotlib.colors
import matplotlib.lines
import matplotlib.patches
import numpy

import map_cells
import style

LEAST_KL = 1e-8  # what is drawn for nothing at all, on logarithmic axes
SPREAD = 10.0    # colours run from the floor over this to the floor times this
COLUMNS = 3


def _ratios(panel):
    """KL over the floor, [ys][xs]; not a number where one is missing."""
    grid = numpy.full((len(panel.ys), len(panel.xs)), math.nan)
    for (x, y), cell in panel.cells.items():
        if cell.floor > 0:
            grid[panel.ys.index(y), panel.xs.index(x)] = max(cell.kl.mean, LEAST_KL) / cell.floor
    return grid


def _contour(axes, ratios):
    """The border between cells below the floor and cells above."""
    below = ratios < 1
    known = ~numpy.isnan(ratios)
    style_of_line = {"color": style.BLACK, "linewidth": 2.2, "solid_capstyle": "round"}
    for row in range(ratios.shape[0]):
        for column in range(ratios.shape[1]):
            here, right, up = (row, column), (row, column + 1), (row + 1, column)
            if column + 1 < ratios.shape[1] and known[here] and known[right] and below[here] != below[right]:
                axes.plot([column + 0.5] * 2, [row - 0.5, row + 0.5], **style_of_line)
            if row + 1 < ratios.shape[0] and known[here] and known[up] and below[here] != below[up]:
                axes.plot([column - 0.5, column + 0.5], [row + 0.5] * 2, **style_of_line)


def _draw_plane(axes, panel):
    ratios = _ratios(panel)
    norm = matplotlib.colors.LogNorm(1 / SPREAD, SPREAD)
    image = axes.pcolormesh(numpy.arange(len(panel.xs) + 1) - 0.5, numpy.arange(len(panel.ys) + 1) - 0.5, ratios,
                            cmap="RdBu_r", norm=norm, edgecolors="white", linewidth=1)
    for (x, y), cell in panel.cells.items():
        row, column = panel.ys.index(y), panel.xs.index(x)
        strong = cell.floor > 0 and abs(math.log(max(cell.kl.mean, LEAST_KL) / cell.floor, SPREAD)) > 0.6
        axes.text(column, row, "0" if cell.kl.mean < LEAST_KL else f"{cell.kl.mean:.2g}", ha="center", va="center",
                  fontsize=7.5, color="white" if strong else style.BLACK)
    _contour(axes, ratios)
    axes.set_xticks(range(len(panel.xs)), panel.xs)
    axes.set_yticks(range(len(panel.ys)), panel.ys)
    axes.set_xlabel(map_cells.axis_label(panel.axis))
    axes.set_ylabel(map_cells.axis_label(panel.y_axis))
    axes.set_title(style.title(panel.set))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def _grid(count, width, height):
    columns = min(COLUMNS, count)
    figure, grid = style.panels(-(-count // columns), columns, width, height)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def draw_planes(analysis, folder, png=False):
    """None without axes in pairs."""
    planes = [panel for panel in analysis.panels if panel.y_axis]
    if not planes:
        return None
    figure, grid = _grid(len(planes), 3.9, 3.0)
    for panel, axes in zip(planes, grid.flat):
        image = _draw_plane(axes, panel)
    bar = figure.colorbar(image, ax=grid, aspect=30, pad=0.02, ticks=[0.1, 0.3, 1, 3, 10])
    bar.ax.set_yticklabels(["0.1×", "0.3×", "floor", "3×", "10×"])
    bar.ax.minorticks_off()
    bar.ax.axhline(1, color=style.BLACK, linewidth=2.2)
    bar.outline.set_visible(False)
    bar.set_label("KL over the noise floor")
    return style.save(figure, folder, "map-planes", png)


def _draw_curve(axes, panel, color, xs):
    cells = [(xs.index(x), panel.cells[x, ""]) for x in panel.xs if (x, "") in panel.cells]
    places = [place for place, _ in cells]
    axes.plot(places, [max(cell.kl.mean, LEAST_KL) for _, cell in cells], "o-", color=color, markeredgecolor="white",
              markersize=7, zorder=4)
    lows = [max(cell.kl.low, LEAST_KL) if cell.kl.num_clusters > 1 else math.nan for _, cell in cells]
    axes.fill_between(places, lows, [max(cell.kl.high, LEAST_KL) for _, cell in cells], color=color, alpha=0.18,
                      linewidth=0, zorder=2)
    floors = [cell.floor if cell.floor > 0 else math.nan for _, cell in cells]
    axes.plot(places, floors, color=color, linewidth=1, linestyle=(0, (4, 2)), zorder=3)


def draw_curves(analysis, folder, png=False):
    """None without single axes."""
    curves = [panel for panel in analysis.panels if not panel.y_axis]
    if not curves:
        return None
    axis_names = list(dict.fromkeys(panel.axis for panel in curves))
    sets = list(dict.fromkeys(panel.set for panel in curves))
    looks = style.distinct(sets)
    figure, grid = _grid(len(axis_names), 3.6, 2.7)
    for axis, axes in zip(axis_names, grid.flat):
        inside = [panel for panel in curves if panel.axis == axis]
        xs = max((panel.xs for panel in inside), key=len)
        for panel in inside:
            own = xs if set(panel.xs) <= set(xs) else panel.xs
            _draw_curve(axes, panel, looks[panel.set]["color"], own)
        axes.set_xticks(range(len(xs)), xs)
        axes.set_yscale("log")
        style.log_ticks(axes.yaxis)
        axes.set_title(map_cells.axis_label(axis))
    for axes in grid[:, 0]:
        axes.set_ylabel("KL from full, nats per token")
    handles = [matplotlib.lines.Line2D([], [], color=looks[name]["color"], marker="o", label=style.title(name))
               for name in sets]
    handles.append(matplotlib.lines.Line2D([], [], color=style.GREY, linewidth=1, linestyle=(0, (4, 2)),
                                           label="noise floor of the same prompts"))
    handles.append(matplotlib.patches.Patch(color=style.GREY, alpha=0.25, linewidth=0, label="95 %"))
    style.legend_above(figure, handles)
    return style.save(figure, folder, "map-curves", png)
