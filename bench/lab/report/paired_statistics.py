"""Paired comparisons of one way to compute a prompt with another, question by question.

Questions on one paragraph are not independent, so whole clusters are drawn again: the percentile bootstrap over
clusters is the interval that is shown, and the interval by the central limit theorem, with clustered errors, stands
beside it.
"""
import dataclasses
import functools
import math

import numpy

RESAMPLES = 10_000
SEED = 20260101
CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # of (1 + CONFIDENCE) / 2


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over questions with both of its intervals."""

    mean: float
    low: float
    high: float
    clt_low: float
    clt_high: float
    num_cases: int
    num_clusters: int
    means: numpy.ndarray = dataclasses.field(repr=False, compare=False)  # of all resamples

    def quantile(self, share):
        """Of the resamples. Not a number for one cluster, which says nothing about others."""
        return float(numpy.quantile(self.means, share)) if self.num_clusters > 1 else math.nan

    @property
    def p_value(self):
        """Two-sided, that the mean is 0, by the resamples; never below what their number can show."""
        if self.num_clusters < 2:
            return math.nan
        tail = min(numpy.count_nonzero(self.means <= 0), numpy.count_nonzero(self.means >= 0))
        return min(1.0, 2 * (int(tail) + 1) / (len(self.means) + 1))


@functools.lru_cache(maxsize=8)
def _draws(num_clusters, resamples, seed):
    """How often each resample draws each cluster, [resamples][num_clusters]. Two arms over the same clusters share
    their draws, so that nothing but the arms differs between their intervals."""
    rng = numpy.random.default_rng([seed, num_clusters])
    picked = rng.integers(num_clusters, size=(resamples, num_clusters))
    picked += numpy.arange(resamples)[:, None] * num_clusters
    counts = numpy.bincount(picked.ravel(), minlength=resamples * num_clusters)
    return counts.reshape(resamples, num_clusters).astype(numpy.float64)


def estimate(values, clusters, resamples=RESAMPLES, seed=SEED):
    """The mean of `values`, each belonging to the cluster named at the same place of `clusters`."""
    values = numpy.asarray(values, dtype=numpy.float64)
    if values.ndim != 1 or len(values) != len(clusters):
        raise ValueError(f"{values.shape} values for {len(clusters)} clusters")
    if not len(values):
        raise ValueError("a mean of no values")
    names, index = numpy.unique(numpy.asarray(clusters), return_inverse=True)
    mean = float(values.mean())
    if len(names) < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, math.nan, len(values), len(names), numpy.array([mean]))
    sizes = numpy.bincount(index).astype(numpy.float64)
    draws = _draws(len(names), resamples, seed)
    means = draws @ numpy.bincount(index, weights=values) / (draws @ sizes)
    low, high = numpy.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    residuals = numpy.bincount(index, weights=values - mean)
    error = math.sqrt(len(names) / (len(names) - 1) * float(residuals @ residuals)) / len(values)
    return Estimate(mean, float(low), float(high), mean - NORMAL_QUANTILE * error, mean + NORMAL_QUANTILE * error,
                    len(values), len(names), means)


def column(runs, name):
    """(values, clusters) of one measure over {case: run}, without the cases where it was not measured."""
    pairs = [(getattr(run, name), run.cluster) for run in runs.values() if not math.isnan(getattr(run, name))]
    return [value for value, _ in pairs], [cluster for _, cluster in pairs]


def mean_of(runs, name):
    """None where nothing was measured."""
    values, clusters = column(runs, name)
    return estimate(values, clusters) if values else None


def mean_difference(runs, others, name):
    """Of `runs` minus `others`, over the cases that both measured; None without any."""
    values, clusters = [], []
    for case, run in runs.items():
        other = others.get(case)
        if other is None:
            continue
        difference = getattr(run, name) - getattr(other, name)
        if not math.isnan(difference):
            values.append(difference)
            clusters.append(run.cluster)
    return estimate(values, clusters) if values else None


def equivalence(difference, margin):
    """Two one-sided tests at 5 % each."""
    low, high = difference.quantile(0.05), difference.quantile(0.95)
    if -margin < low and high < margin:
        return "equal"
    return "different" if low >= margin or high <= -margin else "undecided"


def sign(difference):
    """One-sided tests at 5 % each way."""
    if difference.quantile(0.95) < 0:
        return "below"
    return "above" if difference.quantile(0.05) > 0 else "undecided"


def mcnemar(gained, lost):
    """Two-sided exact p of as unequal a split of the cases that changed, were either direction as likely."""
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def holm(p_values):
    """Adjusted for there being several of them, in their order. What is not a number stays so and does not count."""
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(known) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
