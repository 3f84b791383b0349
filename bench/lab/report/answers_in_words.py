"""The answer to "when is document KV reusable", as far as it follows from the verdicts."""
import comparisons
import map_cells
import markdown
import paired_statistics as statistics
import results as lab
import style


def _against_floor(arm):
    floor = arm.kl.mean - arm.over_floor.mean
    return f"KL {markdown.number(arm.kl.mean)} against {markdown.number(floor)} of the floor"


def _best_reuse(compared):
    """The reuse without repair that is nearest to full recomputation, of those that a floor was measured for."""
    found = [arm for arm in compared if arm.group == "reuse" and not arm.policy and arm.over_floor]
    return min(found, key=lambda arm: arm.kl.mean, default=None)


def _cheapest_repair(contest):
    """(the repair of fewest rows that stays below the floor, or None; the most rows that were tried)."""
    points = [point for point in (contest.points if contest else []) if point.over_floor]
    enough = [point for point in points if statistics.sign(point.over_floor) == "below"]
    return (min(enough, key=lambda point: point.fraction, default=None),
            max((point.fraction for point in points), default=None))


def _repaired(name, arm, repair):
    speed = f", first token {markdown.fixed(repair.speedup, 1)} times faster than full recomputation"
    return (f"**{style.title(name)}**: `{arm.arm}` alone is above the floor ({_against_floor(arm)}); `{repair.arm}` "
            f"is below ({_against_floor(repair)}) by computing {markdown.fixed(100 * repair.fraction, 1)} % of "
            f"the approximate rows again{speed if repair.speedup == repair.speedup else ''}.")


def _sort_sets(analysis):
    """Lists of sentences about sets: (free, repair, recompute, undecided)."""
    free, repaired, recompute, undecided = [], [], [], []
    for name, compared in analysis.compared.items():
        arm = _best_reuse(compared)
        if arm is None:
            continue
        title, verdict = style.title(name), statistics.sign(arm.over_floor)
        if verdict == "below":
            free.append(f"**{title}**: `{arm.arm}` stays below the floor ({_against_floor(arm)}).")
            continue
        if verdict == "undecided":
            undecided.append(f"**{title}**: `{arm.arm}` cannot be told from the floor ({_against_floor(arm)}).")
        repair, most = _cheapest_repair(analysis.contests.get(name))
        if repair:
            repaired.append(_repaired(name, arm, repair) if verdict == "above" else
                            f"**{title}**: to be below the floor for sure, `{repair.arm}` over "
                            f"{markdown.fixed(100 * repair.fraction, 1)} % of the approximate rows is enough.")
        elif verdict == "above":
            tried = f"no repair of up to {markdown.fixed(100 * most, 1)} % of the rows is below" if most else \
                "no repair was tried"
            recompute.append(f"**{title}**: `{arm.arm}` is above the floor ({_against_floor(arm)}), and {tried}.")
    return free, repaired, recompute, undecided


def _map_sentences(analysis, verdicts):
    found = []
    for panel in analysis.panels:
        cells = [cell for cell in panel.cells.values() if cell.verdict in verdicts]
        if not cells:
            continue
        axis = map_cells.axis_label(panel.axis)
        places = (", ".join(cell.x for cell in sorted(cells, key=lambda cell: panel.xs.index(cell.x)))
                  if not panel.y_axis else f"{len(cells)} of {len(panel.cells)} places of the plane with "
                                           f"{map_cells.axis_label(panel.y_axis)}")
        found.append(f"*{axis}* ({style.title(panel.set)}): {places}.")
    return found


def _list(sentences, otherwise):
    return "\n".join(f"- {sentence}" for sentence in sentences) if sentences else otherwise


def freely(analysis):
    free, _, _, _ = _sort_sets(analysis)
    return _list(free + _map_sentences(analysis, ("exact", "free")), "Nowhere that was measured.")


def undecided(analysis):
    _, _, _, sentences = _sort_sets(analysis)
    return _list(sentences + _map_sentences(analysis, ("undecided",)), "Nothing that was measured.")


def repair(analysis):
    _, repaired, _, _ = _sort_sets(analysis)
    return _list(repaired + _map_sentences(analysis, ("repair",)), "Nowhere that was measured.")


def recompute(analysis):
    _, _, sentences, _ = _sort_sets(analysis)
    return _list(sentences, "Nowhere that was measured.")


def front(analysis):
    """Whether our policy is on the front, and how far from the best other."""
    sentences = []
    for name, contest in analysis.contests.items():
        ours = [point for point in contest.points if comparisons.family_of(point) == lab.OURS]
        if not ours:
            continue
        names = comparisons.front_by_rows([*contest.unrepaired.values(), *contest.points])
        on_front = sum(point.arm in names for point in ours)
        rivals = [rival for rival in (comparisons.rival_of(point, contest) for point in ours) if rival]
        better, worse = (sum(rival.high < 1 for rival in rivals), sum(rival.low > 1 for rival in rivals))
        ratios = [rival.ratio for rival in rivals]
        text = f"**{style.title(name)}**: {on_front} of {len(ours)} settings are on the front by rows"
        if rivals:
            text += (f"; at equal rows their KL is {min(ratios):.2f} to {max(ratios):.2f} times that of the best other "
                     f"policy, {better} of {len(rivals)} surely lower, {worse} surely higher")
        sentences.append(text + ".")
    return _list(sentences, "Our policy was not measured.")
