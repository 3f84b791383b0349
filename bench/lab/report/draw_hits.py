"""How much of a stream of prompts each kind of cache serves: as the stream goes on, and by its capacity."""
import matplotlib.lines

import style

NAMES = {
    "chunk": "chunks (pikv)", "prefix-served": "prefix, as served", "prefix-sorted": "prefix, passages sorted",
    "prefix-retrieved": "prefix, as retrieved", "prefix-shuffled": "prefix, passages shuffled"}


def _looks():
    others = style.distinct([name for name in NAMES if name != "chunk"])
    return {name: others.get(name) or style.OURS for name in NAMES}


def _options(name, looks):
    ours = name == "chunk"
    return looks[name] | {"linewidth": 2.8 if ours else 1.4, "markersize": 12 if ours else 5.5,
                          "markeredgecolor": "white", "zorder": 5 if ours else 3}


def _tokens(capacity):
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if capacity >= size:
            return f"{capacity / size:g}{unit}"
    return f"{capacity:g}"


def _draw_trace(over_time, by_capacity, rates, looks):
    capacities = sorted({rate.capacity_tokens for rate in rates if rate.capacity_tokens > 0})
    places = {capacity: i for i, capacity in enumerate(capacities)} | {0: len(capacities)}
    for cache in NAMES:
        inside = [rate for rate in rates if rate.cache == cache]
        # Over time with the largest capacity that was tried: none at all where that was.
        largest = max(inside, key=lambda rate: places[rate.capacity_tokens], default=None)
        if largest is None:
            continue
        over_time.plot(range(1, 11), [100 * rate for rate in largest.tenths], **_options(cache, looks))
        known = sorted((places[rate.capacity_tokens], 100 * rate.hit_rate) for rate in inside)
        by_capacity.plot(*zip(*known), **_options(cache, looks))
    by_capacity.set_xticks(range(len(places)), [*map(_tokens, capacities), "no limit"][:len(places)])
    over_time.set_xticks(range(1, 11))
    for axes in (over_time, by_capacity):
        axes.set_ylim(0, 100)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")


def draw(analysis, folder, png=False):
    """None without hit rates. Traces in which nothing is met again are left to the table."""
    rates = analysis.results.hits
    traces = list(dict.fromkeys(rate.trace for rate in rates if rate.hit_rate > 0))
    if not traces:
        return None
    looks = _looks()
    figure, grid = style.panels(len(traces), 2, 4.2, 2.8, sharey=True)
    for trace, (over_time, by_capacity) in zip(traces, grid):
        _draw_trace(over_time, by_capacity, [rate for rate in rates if rate.trace == trace], looks)
        over_time.set_title(f"{trace}: over time")
        over_time.set_xlabel("tenth of the trace")
        over_time.set_ylabel("prompt tokens served from cache")
        by_capacity.set_title("by capacity")
        by_capacity.set_xlabel("tokens that the cache holds")
    found = {rate.cache for rate in rates}
    handles = [matplotlib.lines.Line2D([], [], label=label, **_options(name, looks))
               for name, label in NAMES.items() if name in found]
    style.legend_above(figure, handles)
    return style.save(figure, folder, "hits", png)
