"""Ways of reuse without repair, controls and formats: KL from full recomputation on every set."""
import matplotlib.lines
import matplotlib.patches

import results as lab
import style

ORDER = ("control", "order", "reuse", "format")
# Below this a divergence is rounding; it is drawn at the edge.
EDGE = 1e-5


def _arms(by_set):
    """Names in the order they are drawn, top first: by group, then by the mean of their KL over sets."""
    levels, groups = {}, {}
    for compared in by_set.values():
        for arm in compared:
            if arm.group in ORDER and not arm.policy:
                levels.setdefault(arm.arm, []).append(arm.kl.mean)
                groups[arm.arm] = arm.group
    return sorted(levels, key=lambda name: (ORDER.index(groups[name]), sum(levels[name]) / len(levels[name]))), groups


def _draw_set(axes, compared, names):
    found = {arm.arm: arm for arm in compared}
    floor = found.get(lab.FLOOR)
    if floor:
        axes.axvspan(max(floor.kl.low, EDGE), floor.kl.high, color=style.SKY, alpha=0.25, linewidth=0, zorder=1)
        axes.axvline(floor.kl.mean, color=style.BLUE, linewidth=1, linestyle=(0, (4, 2)), zorder=2)
    for place, name in enumerate(names):
        arm = found.get(name)
        if arm is None:
            continue
        color = style.GROUP_COLORS[arm.group]
        if arm.kl.mean < EDGE:
            axes.plot([EDGE], [place], "o", color="white", markeredgecolor=color, markeredgewidth=1.4, clip_on=False,
                      zorder=4)
            continue
        axes.plot([EDGE, arm.kl.mean], [place, place], color=color, linewidth=0.8, alpha=0.25, zorder=2)
        axes.plot([max(arm.kl.low, EDGE), arm.kl.high], [place, place], color=color, linewidth=2.4, alpha=0.6,
                  solid_capstyle="round", zorder=3)
        axes.plot([arm.kl.mean], [place], "o", color=color, markeredgecolor="white", markeredgewidth=0.7, markersize=7,
                  zorder=4)


def draw(analysis, folder, png=False):
    """None without runs."""
    by_set = analysis.compared
    names, groups = _arms(by_set)
    if not names:
        return None
    figure, grid = style.panels(1, len(by_set), 2.6 if len(by_set) > 1 else 5, 0.6 + 0.26 * len(names), sharey=True)
    for (name, compared), axes in zip(by_set.items(), grid[0]):
        _draw_set(axes, compared, names)
        axes.set_title(style.title(name))
        axes.set_xscale("log")
        axes.set_xlim(EDGE, None)
        style.log_ticks(axes.xaxis)
        axes.set_xlabel("KL from full, nats per token")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.4, -0.6)
    for label, name in zip(grid[0, 0].get_yticklabels(), names):
        label.set_color(style.GROUP_COLORS[groups[name]])
    handles = [matplotlib.lines.Line2D([], [], color=style.GROUP_COLORS[group], marker="o", linewidth=2.4, label=label)
               for group, label in (("control", "controls"), ("order", "other order"), ("reuse", "reuse"),
                                    ("format", "stored format")) if group in groups.values()]
    handles.append(matplotlib.lines.Line2D([], [], color="white", marker="o", markeredgecolor=style.GREY,
                                           markeredgewidth=1.4, label=f"below {style.plain(EDGE)}"))
    handles.append(matplotlib.patches.Patch(color=style.SKY, alpha=0.35, linewidth=0,
                                            label="noise floor: same passages shuffled, 95 %"))
    style.legend_above(figure, handles)
    return style.save(figure, folder, "arms", png)
