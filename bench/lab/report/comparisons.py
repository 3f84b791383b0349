"""What the page claims, computed: each arm against full recomputation and against the noise floor, repair policies
against each other, and verdicts by margins that were fixed before anything was measured."""
import dataclasses
import math

import numpy

import map_cells
import paired_statistics as statistics
import results as lab

# Two arms count as equal where the difference lies within these with 95 % confidence on either side.
F1_MARGIN = 0.02
NLL_MARGIN = 0.02
# An arm measured on a smaller share of the questions is left out of the contest that is about as many questions as
# can be; the contest of every policy goes over the questions that all of these share, and leaves out what was measured
# on fewer than so many.
LEAST_COVERAGE = 0.5
LEAST_CASES = 12
# Policies round rows apart; within so much of all rows they count as computing as many.
SAME_ROWS = 0.005
# Computing every row is no choice of rows.
NO_RIVALS = (lab.OURS, "all")


@dataclasses.dataclass(frozen=True)
class ArmComparison:
    """Differences are arm minus full recomputation; a field is None where nothing was measured."""

    arm: str
    group: str
    policy: str
    kl: statistics.Estimate
    over_floor: statistics.Estimate  # KL minus that of the noise floor
    top1: statistics.Estimate
    nll: statistics.Estimate
    f1: statistics.Estimate
    subspan: statistics.Estimate
    em_gained: int
    em_lost: int
    fraction: float
    passes: float
    ms: float       # medians over questions
    speedup: float

    @property
    def em_p(self):
        return statistics.mcnemar(self.em_gained, self.em_lost) if self.f1 else math.nan


def median(values):
    known = [value for value in values if not math.isnan(value)]
    return float(numpy.median(known)) if known else math.nan


def _mean(values):
    known = [value for value in values if not math.isnan(value)]
    return float(numpy.mean(known)) if known else math.nan


def compare(arm, runs, reference, floor):
    """`runs`, `reference` and `floor` are {case: run}."""
    any_run = next(iter(runs.values()))
    pairs = [(run, reference[case]) for case, run in runs.items() if case in reference]
    return ArmComparison(
        arm=arm, group=any_run.group, policy=any_run.policy, kl=statistics.mean_of(runs, "kl"),
        over_floor=statistics.mean_difference(runs, floor, "kl"), top1=statistics.mean_of(runs, "top1"),
        nll=statistics.mean_difference(runs, reference, "nll"), f1=statistics.mean_difference(runs, reference, "f1"),
        subspan=statistics.mean_difference(runs, reference, "subspan"),
        em_gained=sum(run.em > other.em for run, other in pairs),
        em_lost=sum(run.em < other.em for run, other in pairs),
        fraction=_mean([run.fraction for run in runs.values()]), passes=_mean([run.passes for run in runs.values()]),
        ms=median([run.ms for run in runs.values()]),
        speedup=median([other.ms / run.ms for run, other in pairs if run.ms > 0]))


def compare_all(arms):
    """Every arm of one set, as Results.by_arm() gives them."""
    reference, floor = arms.get(lab.REFERENCE, {}), arms.get(lab.FLOOR, {})
    return [compare(arm, runs, reference, floor) for arm, runs in arms.items()]


@dataclasses.dataclass(frozen=True)
class Contest:
    """Repair policies of one set over the same questions."""

    points: list      # ArmComparison of repaired arms
    unrepaired: dict  # base -> ArmComparison of the same reuse without repair
    floor: object     # ArmComparison of the noise floor, or None
    full: object      # of full recomputation, or None
    left_out: list    # names of arms measured on too few of the questions
    f1: dict          # arm -> Estimate of F1 itself
    num_cases: int

    def series(self):
        """{(base, family): points by rows}; a family is the name before the colon."""
        found = {}
        for point in self.points:
            found.setdefault((base_of(point), family_of(point)), []).append(point)
        return {key: sorted(points, key=lambda point: point.fraction) for key, points in found.items()}


def base_of(point):
    return point.arm.split("+", 1)[0]


def family_of(point):
    return point.policy.split(":", 1)[0]


def contest(arms, of_every_policy=False):
    """None without repaired arms."""
    repaired = {arm: runs for arm, runs in arms.items() if "+" in arm}
    if not repaired:
        return None
    bases = {arm.split("+", 1)[0] for arm in repaired}
    wanted = [arm for arm in arms if arm in repaired or arm in bases or arm in (lab.REFERENCE, lab.FLOOR)]
    most = max(len(runs) for runs in repaired.values())
    least = LEAST_CASES if of_every_policy else LEAST_COVERAGE * most
    kept = [arm for arm in wanted if len(arms[arm]) >= min(least, most)]
    common = set.intersection(*(set(arms[arm]) for arm in kept))
    if not common:
        return None
    same = {arm: {case: run for case, run in arms[arm].items() if case in common} for arm in kept}
    compared = {comparison.arm: comparison for comparison in compare_all(same)}
    points = [compared[arm] for arm in kept if arm in repaired and not math.isnan(compared[arm].fraction)]
    return Contest(points=points, unrepaired={base: compared[base] for base in sorted(bases) if base in compared},
                   floor=compared.get(lab.FLOOR), full=compared.get(lab.REFERENCE),
                   left_out=[arm for arm in wanted if arm not in kept],
                   f1={arm: statistics.mean_of(runs, "f1") for arm, runs in same.items()}, num_cases=len(common))


def fraction_of(point):
    """Without repair nothing is computed again, whether or not rows were counted."""
    return point.fraction if point.policy else 0.0


def front_by_rows(points):
    """The names of those that no other beats in KL at no more rows."""
    return _front([(fraction_of(point), point.kl.mean, point.arm) for point in points])


def front_by_time(points):
    return _front([(point.ms, point.kl.mean, point.arm) for point in points])


def _front(costs):
    names, best = set(), math.inf
    for _, kl, name in sorted(entry for entry in costs if not math.isnan(entry[0])):
        if kl < best:
            names.add(name)
            best = kl
    return names


@dataclasses.dataclass(frozen=True)
class Rival:
    """The best other policy at the same rows, between its measured settings if need be."""

    name: str
    kl: float
    ratio: float  # our KL over the rival's
    low: float
    high: float


def _log_means(comparison):
    """Of the mean first, of the resamples behind it."""
    return numpy.log(numpy.maximum(numpy.append(comparison.kl.mean, comparison.kl.means), 1e-12))


def rival_of(point, contest_, on_same_chunks=False):
    """The policy of another family that has the least KL at the rows of `point`, of any chunks or of those encoded
    alike; KL between two settings runs straight in its logarithm, from no repair at no rows on. None where no other
    policy was measured up to as many rows."""
    best = None
    for (base, family), points in contest_.series().items():
        if family in NO_RIVALS or (on_same_chunks and base != base_of(point)):
            continue
        start = [contest_.unrepaired[base]] if base in contest_.unrepaired else []
        rows = [0.0] * len(start) + [other.fraction for other in points]
        curve = start + points
        above = next((i for i, row in enumerate(rows) if row >= point.fraction - SAME_ROWS), None)
        if above is None or (above == 0 and rows[0] > point.fraction + SAME_ROWS):
            continue
        if above == 0 or abs(rows[above] - point.fraction) <= SAME_ROWS:
            logs = _log_means(curve[above])
        else:
            step = rows[above] - rows[above - 1]
            weight = (point.fraction - rows[above - 1]) / step if step > 0 else 1.0
            logs = (1 - weight) * _log_means(curve[above - 1]) + weight * _log_means(curve[above])
        if best is None or logs[0] < best[1][0]:
            best = (family if base == base_of(point) else f"{family} on {base}", logs)
    if best is None:
        return None
    name, logs = best
    ratios = numpy.exp(_log_means(point) - logs)
    low, high = (numpy.quantile(ratios[1:], [0.025, 0.975]) if point.kl.num_clusters > 1 else (math.nan, math.nan))
    return Rival(name, float(numpy.exp(logs[0])), float(ratios[0]), float(low), float(high))


class Analysis:
    """All of the above for all sets, computed once."""

    def __init__(self, results):
        self.results = results
        self.arms = {name: results.by_arm(name) for name in results.sets()}
        self.compared = {name: compare_all(arms) for name, arms in self.arms.items()}
        self.contests = self._contests(of_every_policy=False)
        self.contests_of_all = self._contests(of_every_policy=True)
        self.panels = map_cells.panels(results.map_points)

    def _contests(self, of_every_policy):
        found = {name: contest(arms, of_every_policy) for name, arms in self.arms.items()}
        return {name: one for name, one in found.items() if one and one.points}
