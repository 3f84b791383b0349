"""The page's tables that are not about arms: what theory fixes beforehand, the map, and hit rates."""
import math

import map_cells
import markdown
import paired_statistics as statistics
import results as lab
import style

# Two ways to compute the same thing may differ by this much KL on one question, by rounding through all layers.
SAME_KL = 1e-4


def _largest(label, set_name, values, bound, theory):
    worst = max(values)
    return [label, style.title(set_name), theory, f"at most {markdown.number(worst)} over {len(values)}",
            "yes" if worst <= bound else "**no**"]


def _above_zero(label, set_name, difference, theory, scale, show):
    return [label, style.title(set_name), theory, markdown.interval(difference, scale, show),
            "yes" if statistics.sign(difference) == "above" else "**no**"]


def _controls_of(set_name, arms):
    if "exact-prefix" in arms:
        yield _largest("KL of an exact prefix", set_name, [run.kl for run in arms["exact-prefix"].values()],
                       lab.EXACT_KL, "0")
    block, alone = arms.get("block-mask", {}), arms.get("reanchored", {})
    both = [abs(run.kl - alone[case].kl) for case, run in block.items() if case in alone]
    if both:
        yield _largest("KL of `reanchored` against that of a block-diagonal mask", set_name, both, SAME_KL, "equal")
    blind = statistics.mean_difference(arms.get("no-context", {}), arms.get("reanchored", {}), "kl")
    if blind:
        yield _above_zero("KL without passages minus KL of `reanchored`", set_name, blind, "above 0", 1,
                          markdown.number)
    useful = statistics.mean_difference(arms.get(lab.REFERENCE, {}), arms.get("no-context", {}), "f1")
    if useful:
        yield _above_zero("F1 of full recomputation minus F1 without passages, points", set_name, useful, "above 0",
                          100, lambda value: f"{value:+.1f}")


def controls(analysis):
    lines = [line for name, arms in analysis.arms.items() for line in _controls_of(name, arms)]
    for set_name in dict.fromkeys(point.set for point in analysis.results.map_points):
        inside = [point for point in analysis.results.map_points if point.set == set_name]
        shifted = [point.kl for point in inside if point.axis == "shift" and not point.y_axis]
        alone = [point.kl for point in inside if (point.axis == "neighbours" and point.x == 0)
                 or (point.y_axis == "neighbours" and point.y == 0 and point.x == "plain")]
        if shifted:
            lines.append(_largest("KL of a shifted chunk alone", set_name, shifted, lab.EXACT_KL, "0"))
        if alone:
            lines.append(_largest("KL without passages before the chunk", set_name, alone, lab.EXACT_KL, "0"))
    return markdown.table(["control", "set", "theory", "measured", "as theory says"], lines)


def _places(panel, verdict):
    found = []
    for x in panel.xs:
        ys = [y for y in panel.ys if (x, y) in panel.cells and panel.cells[x, y].verdict == verdict]
        if ys and (not panel.y_axis or len(ys) == len([y for y in panel.ys if (x, y) in panel.cells])):
            found.append(x)
        elif ys:
            found.append(f"{x} with {', '.join(ys)}")
    return ("; " if panel.y_axis else ", ").join(found)


def reuse_map(analysis):
    """Where reuse alone stays below the noise floor, and where not."""
    lines = []
    for panel in analysis.panels:
        name = map_cells.axis_label(panel.axis)
        if panel.y_axis:
            name += f", with {map_cells.axis_label(panel.y_axis)}"
        levels = [cell.kl.mean for cell in panel.cells.values()]
        exact_and_free = [text for text in (_places(panel, "exact"), _places(panel, "free")) if text]
        lines.append([name, style.title(panel.set), f"{markdown.number(min(levels))} to {markdown.number(max(levels))}",
                      "; ".join(exact_and_free), _places(panel, "undecided"), _places(panel, "repair")])
    return markdown.table(["axis", "set", "KL", "below the floor", "undecided", "above the floor"], lines)


def hits(analysis):
    def order(rate):
        return rate.trace, lab.CACHES.index(rate.cache), rate.capacity_tokens or math.inf

    lines = []
    for rate in sorted(analysis.results.hits, key=order):
        capacity = f"{rate.capacity_tokens:,}" if rate.capacity_tokens else "no limit"
        lines.append([rate.trace, f"`{rate.cache}`", capacity,
                      markdown.fixed(100 * rate.hit_rate, 1), markdown.fixed(100 * rate.tenths[0], 1),
                      markdown.fixed(100 * rate.tenths[-1], 1)])
    return markdown.table(["trace", "cache", "tokens it holds", "hit rate, % of prompt tokens", "first tenth",
                           "last tenth"], lines)
