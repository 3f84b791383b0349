"""The map of when reuse holds: what was measured at each place of its axes, against the noise floor there."""
import collections
import dataclasses
import math

import numpy

import paired_statistics as statistics
import results as lab

# An axis with more places than this is cut into as many parts with equally many points.
MOST_PLACES = 12
PARTS = 6
AXIS_LABELS = {
    "shift": "shift of the chunk, tokens",
    "shift_uncorrected": "shift, keys left as stored", "base": "encoded",
    "neighbours": "passages before the chunk",
    "chunk_tokens": "tokens of a chunk",
    "neighbour_kind": "kind of neighbours", "order": "order of passages", "distance": "gold passage to question, tokens",
    "format": "stored format", "budget": "rows computed again"}


def axis_label(axis):
    return AXIS_LABELS.get(axis, axis.replace("_", " "))


@dataclasses.dataclass(frozen=True)
class Cell:
    x: str
    y: str
    kl: statistics.Estimate
    v_err: float
    floor: float                      # mean over the same points; not a number where there is none
    over_floor: statistics.Estimate   # None where there is no floor

    @property
    def verdict(self):
        """Of reuse at this place."""
        if self.kl.mean <= lab.EXACT_KL:
            return "exact"
        if self.over_floor is None:
            return "no floor"
        return {"below": "free", "above": "repair"}.get(statistics.sign(self.over_floor), "undecided")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set over one axis or two. `xs` and `ys` are labels in the order of the axis; `cells` is {(x, y): Cell}."""

    axis: str
    y_axis: str
    set: str
    xs: list
    ys: list
    cells: dict


def _short(value):
    if isinstance(value, str):
        return value
    if value >= 1024 and value % 1024 == 0:
        return f"{value / 1024:g}k"
    return f"{value:.3g}" if value % 1 else f"{value:.0f}"


def _places(values):
    """(labels in order, the label of each value)."""
    distinct = list(dict.fromkeys(values))
    numeric = all(not isinstance(value, str) for value in distinct)
    if not numeric or len(distinct) <= MOST_PLACES:
        order = sorted(distinct) if numeric else distinct
        return [_short(value) for value in order], [_short(value) for value in values]
    cuts = numpy.quantile(values, numpy.arange(1, PARTS) / PARTS)
    parts = numpy.searchsorted(cuts, values, side="right")
    label = {part: f"{numpy.mean([v for v, p in zip(values, parts) if p == part]):.2g}" for part in sorted(set(parts))}
    return list(dict.fromkeys(label.values())), [label[part] for part in parts]


def _cell(x, y, points):
    known = [point for point in points if not math.isnan(point.floor)]
    over = statistics.estimate([point.kl - point.floor for point in known],
                               [point.case for point in known]) if known else None
    errors = [point.v_err for point in points if not math.isnan(point.v_err)]
    return Cell(x=x, y=y, kl=statistics.estimate([point.kl for point in points], [point.case for point in points]),
                v_err=float(numpy.mean(errors)) if errors else math.nan,
                floor=float(numpy.mean([point.floor for point in known])) if known else math.nan, over_floor=over)


def panels(points):
    """In the order in which axes and sets came; those over two axes first."""
    groups = collections.defaultdict(list)
    for point in points:
        groups[point.axis, point.y_axis, point.set].append(point)
    found = []
    for (axis, y_axis, set_name), inside in groups.items():
        xs, x_of = _places([point.x for point in inside])
        ys, y_of = _places([point.y for point in inside]) if y_axis else ([""], [""] * len(inside))
        members = collections.defaultdict(list)
        for x, y, point in zip(x_of, y_of, inside):
            members[x, y].append(point)
        cells = {(x, y): _cell(x, y, some) for (x, y), some in members.items()}
        found.append(Panel(axis, y_axis, set_name, xs, ys, cells))
    return sorted(found, key=lambda panel: panel.y_axis == "")
