"""Repair policies: what is left of the error, and what it costs, over how many rows are computed again."""
import dataclasses
import math

import matplotlib.lines
import matplotlib.patches
import matplotlib.ticker

import comparisons
import results as lab
import style


def _without_exact(contest):
    """Computing everything again leaves nothing of the error, and of a logarithmic scale."""
    return dataclasses.replace(contest, points=[point for point in contest.points if point.kl.mean > lab.EXACT_KL])


TO_TOLERANCE = f"{lab.OURS} to a tolerance"


def _line_of(point):
    """Settings that one line joins: of ours, those that are told how many rows apart from those that are told an
    error."""
    family, _, value = point.policy.partition(":")
    return TO_TOLERANCE if family == lab.OURS and value.partition(",")[0] != "0" else family


def _lines(contest):
    """{(base, line): points by rows}."""
    found = {}
    for (base, _), points in contest.series().items():
        for point in points:
            found.setdefault((base, _line_of(point)), []).append(point)
    return found


def _styles(contests):
    """{(base, line): options of a line}; ours is drawn boldest and last. Bases but the commonest are named and
    dashed."""
    keys = [key for contest in contests.values() for key in _lines(contest)]
    bases = sorted({base for base, _ in keys}, key=lambda base: (-sum(key[0] == base for key in keys), base))
    families = sorted({family for _, family in keys if not family.startswith(lab.OURS)})
    looks = style.distinct(families)
    styles = {}
    for base, family in sorted(set(keys), key=lambda key: (key[1].startswith(lab.OURS), key)):
        ours = family.startswith(lab.OURS)
        look = style.OURS if ours else looks[family]
        if family == TO_TOLERANCE:
            look = look | {"marker": "P"}
        bold = family == lab.OURS
        styles[base, family] = look | {
            "linewidth": 2.8 if bold else 1.3, "markersize": 12 if bold else 7 if ours else 5,
            "zorder": 6 if ours else 3,
            "markeredgecolor": "white", "markeredgewidth": 0.8 if ours else 0.5,
            "linestyle": ("-", "--", ":", "-.")[min(bases.index(base), 3)],
            "label": f"{family}{' (ours)' if ours else ''}{'' if base == bases[0] else f' on {base}'}"}
    return styles


def _value(contest, point, row):
    """(middle, low, high) of what a row of panels shows."""
    if row == "ms":
        return point.ms, math.nan, math.nan
    estimate = point.kl if row == "kl" else contest.f1.get(point.arm)
    scale = 1 if row == "kl" else 100
    if estimate is None:
        return math.nan, math.nan, math.nan
    return tuple(scale * value for value in (estimate.mean, estimate.low, estimate.high))


def _draw_series(axes, contest, row, styles):
    for key, points in _lines(contest).items():
        start = [contest.unrepaired[key[0]]] if key[0] in contest.unrepaired else []
        rows = [0.0] * len(start) + [100 * point.fraction for point in points]
        values = [_value(contest, point, row) for point in start + points]
        look = styles[key]
        axes.plot(rows, [middle for middle, _, _ in values], **look, markevery=range(len(start), len(rows)))
        if row == "kl":
            for x, (_, low, high) in list(zip(rows, values))[len(start):]:
                axes.plot([x, x], [max(low, 1e-9), high], color=look["color"], linewidth=0.9, alpha=0.55, zorder=2)
    for start in contest.unrepaired.values():
        axes.plot([0], [_value(contest, start, row)[0]], "o", color="white", markeredgecolor=style.BLACK,
                  markersize=6, markeredgewidth=1.3, zorder=5, clip_on=False)


def _draw_front(axes, contest):
    """A ring around each setting that no other beats, and the staircase through them."""
    every = [*contest.points, *contest.unrepaired.values()]
    names = comparisons.front_by_rows(every)
    best = sorted((100 * comparisons.fraction_of(point), point.kl.mean, bool(point.policy))
                  for point in every if point.arm in names)
    axes.step([x for x, _, _ in best], [y for _, y, _ in best], where="post", color=style.PALE, linewidth=6,
              solid_capstyle="round", zorder=1.5)
    axes.plot([x for x, _, policy in best if policy], [y for _, y, policy in best if policy], "o", markersize=12,
              markerfacecolor="none", markeredgecolor=style.BLACK, markeredgewidth=0.8, linestyle="none", zorder=7)


def _draw_levels(axes, contest, row):
    if row == "kl" and contest.floor:
        kl = contest.floor.kl
        axes.axhspan(kl.low, kl.high, color=style.SKY, alpha=0.25, linewidth=0, zorder=1)
        axes.axhline(kl.mean, color=style.BLUE, linewidth=1, linestyle=(0, (4, 2)), zorder=2)
    if row == "f1" and contest.full and contest.f1.get(contest.full.arm):
        full, margin = 100 * contest.f1[contest.full.arm].mean, 100 * comparisons.F1_MARGIN
        axes.axhspan(full - margin, full + margin, color=style.GREY, alpha=0.2, linewidth=0, zorder=1)
        axes.axhline(full, color=style.GREY, linewidth=1, zorder=2)
    if row == "ms" and contest.full and not math.isnan(contest.full.ms):
        axes.axhline(contest.full.ms, color=style.GREY, linewidth=1, zorder=2)


LABELS = {"kl": "KL from full, nats per token", "f1": "F1 of answers, %", "ms": "time to first token, ms"}
FULL_LABEL = f"full recomputation, F1 ± {100 * comparisons.F1_MARGIN:.0f} points"


def draw(analysis, folder, png=False):
    """None without repaired arms."""
    contests = {name: _without_exact(contest) for name, contest in analysis.contests.items()}
    if not contests:
        return None
    rows = ["kl"]
    if any(estimate for contest in contests.values() for estimate in contest.f1.values()):
        rows.append("f1")
    if any(not math.isnan(point.ms) for contest in contests.values() for point in contest.points):
        rows.append("ms")
    styles = _styles(contests)
    figure, grid = style.panels(len(rows), len(contests), 3.3 if len(contests) > 1 else 5.5, 2.5, sharex="col",
                                gridspec_kw={"height_ratios": [1.6 if row == "kl" else 1 for row in rows]})
    for column, (name, contest) in enumerate(contests.items()):
        for row, axes in zip(rows, grid[:, column]):
            _draw_levels(axes, contest, row)
            _draw_series(axes, contest, row, styles)
            if row == "kl":
                _draw_front(axes, contest)
                axes.set_title(f"{style.title(name)}  ·  n = {contest.num_cases}")
            if all(math.isnan(_value(contest, point, row)[0]) for point in contest.points):
                axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center",
                          color=style.GREY)
                axes.set_yticks([])
            elif row != "f1":
                axes.set_yscale("log")
                style.log_ticks(axes.yaxis)
            if column == 0:
                axes.set_ylabel(LABELS[row])
        _scale_rows(grid[-1, column], contest)
    handles = [matplotlib.lines.Line2D([], [], **look) for look in styles.values()]
    handles.append(matplotlib.lines.Line2D([], [], color="white", marker="o", markeredgecolor=style.BLACK,
                                           markersize=6, markeredgewidth=1.3, label="no repair"))
    handles.append(matplotlib.lines.Line2D([], [], color=style.PALE, linewidth=6, marker="o", markersize=11,
                                           markerfacecolor="white", markeredgecolor=style.BLACK,
                                           label="Pareto front"))
    handles.append(matplotlib.patches.Patch(color=style.SKY, alpha=0.35, linewidth=0,
                                            label="noise floor: same passages shuffled, 95 %"))
    handles.append(matplotlib.patches.Patch(color=style.GREY, alpha=0.3, linewidth=0, label=FULL_LABEL))
    style.legend_above(figure, handles)
    return style.save(figure, folder, "pareto", png)


def _scale_rows(axes, contest):
    """By the square root, because policies crowd at few rows."""
    most = 100 * max(point.fraction for point in contest.points)
    axes.set_xscale("function", functions=(lambda x: abs(x) ** 0.5, lambda x: x**2))
    axes.set_xlim(0, most * 1.12)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 30, 50, 75, 100) if tick <= most * 1.12]
    axes.xaxis.set_major_locator(matplotlib.ticker.FixedLocator(ticks))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("approximate rows computed again, %")
