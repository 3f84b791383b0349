"""The page's tables about quality. Each is empty where nothing was measured for it."""
import math

import comparisons
import markdown
import paired_statistics as statistics
import results as lab
import style


def _per_set(sections):
    """Tables one below the other, each under the name of its set."""
    return "\n\n".join(f"**{style.title(name)}**\n\n{text}" for name, text in sections if text)


def sets(analysis):
    lines = []
    for name, runs in analysis.arms.items():
        every = [run for cases in runs.values() for run in cases.values()]
        reference = list(runs.get(lab.REFERENCE, {}).values()) or every
        lines.append([style.title(name), str(len({run.case for run in every})),
                      str(len({run.cluster for run in every})),
                      str(len({run.case for run in every if not math.isnan(run.f1)})),
                      markdown.fixed(comparisons.median([run.prompt_rows for run in reference]), 0),
                      markdown.fixed(comparisons.median([run.approx_rows for run in every if run.approx_rows > 0]), 0),
                      str(len(runs))])
    return markdown.table(["set", "questions", "clusters", "with generated answers", "prompt tokens, median",
                           "of these approximate under reuse", "arms"], lines)


def _verdict_below(comparison):
    if comparison.over_floor is None:
        return ""
    return {"below": "below", "above": "above", "undecided": "undecided"}[statistics.sign(comparison.over_floor)]


def _plain_arms(compared):
    """Without repair, nearest to full recomputation first."""
    return sorted((arm for arm in compared if not arm.policy and arm.arm != lab.REFERENCE),
                  key=lambda arm: arm.kl.mean)


def _distribution_table(compared):
    arms = _plain_arms(compared)
    tested = [arm for arm in arms if arm.arm != lab.FLOOR and arm.over_floor]
    adjusted = dict(zip([arm.arm for arm in tested], statistics.holm([arm.over_floor.p_value for arm in tested])))
    lines = []
    for arm in arms:
        floor = arm.arm == lab.FLOOR
        lines.append([f"`{arm.arm}`", arm.group, str(arm.kl.num_cases), markdown.interval(arm.kl),
                      markdown.clt_interval(arm.kl), markdown.fixed(100 * arm.top1.mean, 1) if arm.top1 else "",
                      "" if floor else markdown.interval(arm.over_floor),
                      markdown.p_value(adjusted.get(arm.arm, math.nan)), "is the floor" if floor else
                      _verdict_below(arm)])
    return markdown.table(["arm", "kind", "n", "KL, nats per token [95 %]", "the same by CLT", "same top-1, %",
                           "KL minus the floor's [95 %]", "p (Holm)", "noise floor"], lines)


def arms(analysis):
    return _per_set((name, _distribution_table(compared))
                    for name, compared in analysis.compared.items())


def _answer_table(compared):
    arms = [arm for arm in _plain_arms(compared) if arm.nll or arm.f1]
    if not arms:
        return ""
    adjusted = statistics.holm([arm.em_p for arm in arms])

    def change(value):
        return f"{value:+.1f}"

    lines = []
    for arm, p in zip(arms, adjusted):
        nll = statistics.equivalence(arm.nll, comparisons.NLL_MARGIN) if arm.nll else ""
        f1 = statistics.equivalence(arm.f1, comparisons.F1_MARGIN) if arm.f1 else ""
        lines.append([f"`{arm.arm}`", markdown.interval(arm.nll, show=markdown.signed), nll,
                      str(arm.f1.num_cases) if arm.f1 else "", markdown.interval(arm.f1, 100, change), f1,
                      markdown.interval(arm.subspan, 100, change),
                      f"+{arm.em_gained} −{arm.em_lost}" if arm.f1 else "", markdown.p_value(p)])
    return markdown.table(["arm", "NLL of the answer, change [95 %]", f"within {comparisons.NLL_MARGIN:g}",
                           "n generated", "F1, change in points [95 %]", f"within {100 * comparisons.F1_MARGIN:.0f}",
                           "answer contained, change in points", "exact matches", "McNemar p (Holm)"], lines)


def answers(analysis):
    return _per_set((name, _answer_table(compared)) for name, compared in analysis.compared.items())


def _policy_table(contest):
    every = sorted([*contest.unrepaired.values(), *contest.points],
                   key=lambda point: (comparisons.fraction_of(point), point.kl.mean))
    by_rows, by_time = comparisons.front_by_rows(every), comparisons.front_by_time(every)
    lines = []
    for point in every:
        label = f"`{point.policy}`" if point.policy else "no repair"
        if len(contest.unrepaired) > 1:
            label += f" on `{comparisons.base_of(point)}`"
        over = point.kl.mean / contest.floor.kl.mean if contest.floor and contest.floor.kl.mean > 0 else math.nan
        lines.append([f"**{label}**" if comparisons.family_of(point) == lab.OURS else label,
                      markdown.fixed(100 * comparisons.fraction_of(point), 1),
                      markdown.fixed(point.passes, 1), markdown.fixed(point.ms, 1),
                      markdown.fixed(point.speedup, 1, "×"), markdown.interval(point.kl), markdown.fixed(over, 2, "×"),
                      _verdict_below(point), markdown.interval(point.f1, 100, lambda value: f"{value:+.1f}"),
                      "yes" if point.arm in by_rows else "", "yes" if point.arm in by_time else ""])
    text = markdown.table(["policy", "rows, %", "passes", "first token, ms", "faster than full", "KL [95 %]",
                           "of the floor", "noise floor", "F1, change in points", "front by rows", "front by time"],
                          lines)
    if contest.left_out:
        names = ", ".join(f"`{arm}`" for arm in contest.left_out)
        text += f"\n\nMeasured on too few of these questions to be compared: {names}."
    return f"{contest.num_cases} questions.\n\n{text}"


def policies(analysis):
    return _per_set((name, _policy_table(contest)) for name, contest in analysis.contests.items())


def every_policy(analysis):
    """The same over the questions that all policies were measured on, where these are fewer."""
    fewer = {name: contest for name, contest in analysis.contests_of_all.items()
             if contest.num_cases < analysis.contests[name].num_cases}
    if analysis.contests and not fewer:
        return "Those are the same: every setting was measured on the questions of the tables above."
    return _per_set((name, _policy_table(contest)) for name, contest in fewer.items())


def _against(rival):
    return f"{rival.ratio:.2f} [{rival.low:.2f}, {rival.high:.2f}] of `{rival.name}`" if rival else "none has as many"


def ours(analysis):
    """Each setting of our policy against the best other one at as many rows."""
    lines = []
    for name, contest in analysis.contests.items():
        every = [*contest.unrepaired.values(), *contest.points]
        by_rows = comparisons.front_by_rows(every)
        for point in contest.points:
            if comparisons.family_of(point) != lab.OURS:
                continue
            lines.append([style.title(name), f"`{point.policy}` on `{comparisons.base_of(point)}`",
                          markdown.fixed(100 * point.fraction, 1), markdown.number(point.kl.mean),
                          _against(comparisons.rival_of(point, contest, on_same_chunks=True)),
                          _against(comparisons.rival_of(point, contest)), "yes" if point.arm in by_rows else "no",
                          _verdict_below(point)])
    return markdown.table(["set", "ours", "rows, %", "KL", "of the best other on the same chunks, at these rows",
                           "of the best other on any", "on the front", "noise floor"], lines)
