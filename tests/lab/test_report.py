#!/usr/bin/env python3
"""The experiment's results as they are read and compared, against what can be counted by hand.

Exit status 77: skipped.
"""
import json
import os
import sys
import tempfile
import unittest

try:
    import numpy
except ImportError:
    print("skipped: numpy is missing (Debian: python3-numpy)")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "bench", "lab", "report")]
import comparisons  # noqa: E402
import map_cells  # noqa: E402
import pack_results  # noqa: E402
import paired_statistics as statistics  # noqa: E402
import results as lab  # noqa: E402
import synthetic  # noqa: E402

RUN = {"kind": "run", "set": "nq", "case": "a", "cluster": "c", "arm": "full", "group": "reference", "kl": 0}


def read_lines(lines):
    """Lines are objects, or texts as they stand."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "r.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        return lab.read([path])


def runs_of(arm, kls, group="repair", share=0.0, **more):
    return [RUN | {"arm": arm, "group": group, "case": f"q{i}", "cluster": f"p{i}", "kl": kl, "rows": 100 * share,
                   "approx_rows": 100} | more for i, kl in enumerate(kls)]


class Packing(unittest.TestCase):
    def packed(self, *files):
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, f"{i}.jsonl") for i in range(len(files))]
            for path, lines in zip(paths, files):
                with open(path, "w", encoding="utf-8") as file:
                    file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
            return [json.loads(line) for line in pack_results.pack(paths).splitlines()]

    def test_lines_are_sorted_shortened_and_of_the_last_file(self):
        first = RUN | {"case": "b", "kl": 0.25, "answer": "yes", "kl_tokens": [0.25]}
        second = RUN | {"case": "a", "kl": 1 / 3, "v_err": [2 / 3]}
        again = RUN | {"case": "b", "kl": 0.5}
        self.assertEqual(self.packed([first, second], [again]), [RUN | {"case": "a", "kl": 0.33333, "v_err": [0.66667]},
                                                                 again])

    def test_points_of_a_map_are_told_apart_by_their_place(self):
        points = [{"kind": "map", "set": "nq", "case": "a", "place": place} for place in ("x=1", "x=2")]
        self.assertEqual(self.packed(points), points)

    def test_what_is_no_result_is_named(self):
        for line, text in (("{", "JSONDecodeError"), ("[]", "TypeError"), ('{"set": "nq"}', "'case'")):
            with self.assertRaises(lab.BadResults) as caught:
                self.packed([RUN, line])
            self.assertIn("0.jsonl:2: no line of results: ", str(caught.exception))
            self.assertIn(text, str(caught.exception))


class Reading(unittest.TestCase):
    def refused(self, line, text, before=(RUN,)):
        with self.assertRaises(lab.BadResults) as caught:
            read_lines([*before, "", line])
        self.assertIn(f"r.jsonl:{len(before) + 2}: ", str(caught.exception))
        self.assertIn(text, str(caught.exception))

    def test_malformed_lines_are_named(self):
        other = RUN | {"case": "b"}
        self.refused("{", "not JSON")
        self.refused("[1]", "expected an object, found list")
        self.refused(other | {"kind": "walk"}, '"kind" is "walk", expected one of run, map, hits')
        self.refused(other | {"group": "odd"}, '"group" is "odd"')
        self.refused(other | {"cluster": 3}, '"cluster" must be a text, found 3')
        self.refused({k: v for k, v in other.items() if k != "kl"}, '"kl" must be a finite number, found null')
        self.refused(other | {"kl": -0.5}, '"kl" is -0.5')
        self.refused(other | {"kl": True}, '"kl" must be a finite number, found true')
        self.refused('{"kind": "run", "set": "nq", "case": "b", "cluster": "c", "arm": "full", "group": "reference", '
                     '"kl": NaN}', "must be a finite number")
        self.refused(other | {"top1": 1.5}, '"top1" is 1.5, expected 0 to 1')
        self.refused(other | {"k_err": [0.1, "x"]}, '"k_err"[1]')
        self.refused({"kind": "map", "axis": "shift", "set": "nq", "case": "a", "kl": 0}, '"x" must be')
        self.refused({"kind": "hits", "trace": "t", "cache": "chunk", "capacity_tokens": 0, "hit_rate": 0.5,
                      "tenths": [0.5]}, '"tenths" must be a list of 10 numbers')

    def test_the_same_run_twice_is_refused(self):
        self.refused(RUN, 'is already in')

    def test_layers_must_agree_within_a_set(self):
        self.refused(RUN | {"case": "b", "v_err": [1, 2, 3]}, '"v_err" has 3 layers', [RUN | {"k_err": [1, 2]}])
        read_lines([RUN | {"k_err": [1, 2]}, RUN | {"set": "hotpot", "k_err": [1, 2, 3]}])

    def test_a_missing_file_is_named(self):
        with self.assertRaisesRegex(lab.BadResults, "/nowhere/r.jsonl: cannot be read"):
            lab.read(["/nowhere/r.jsonl"])

    def test_a_line_that_is_still_being_written_is_not_there_yet(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "r.jsonl")
            with open(path, "w", encoding="utf-8") as file:
                file.write(json.dumps(RUN) + "\n" + json.dumps(RUN | {"case": "b"})[:-5])
            self.assertEqual(len(lab.read([path], growing=True).runs), 1)
            with self.assertRaisesRegex(lab.BadResults, "r.jsonl:2: not JSON"):
                lab.read([path])

    def test_what_was_not_measured_is_not_a_number(self):
        run = read_lines([RUN | {"nll": None}]).runs[0]
        self.assertTrue(numpy.isnan(run.nll) and numpy.isnan(run.f1) and numpy.isnan(run.fraction))
        self.assertEqual(run.k_err, ())

    def test_arm_names_split_at_the_first_plus(self):
        arm = "reanchored-behind-system+budget:kl=0.05"
        run = read_lines([RUN | {"arm": arm, "rows": 5, "approx_rows": 50}]).runs[0]
        self.assertEqual((run.base, run.policy), ("reanchored-behind-system", "budget:kl=0.05"))
        self.assertAlmostEqual(run.fraction, 0.1)


class Intervals(unittest.TestCase):
    def coverage(self, clustered):
        """How often the interval holds the true mean 0, over data with a share of variance common to a cluster."""
        rng = numpy.random.default_rng(5)
        inside = {"bootstrap": 0, "clt": 0}
        repetitions = 400
        for _ in range(repetitions):
            clusters = numpy.repeat(numpy.arange(60), 1 + numpy.arange(60) % 5)
            values = rng.normal(size=60)[clusters] + rng.normal(size=len(clusters))
            estimate = statistics.estimate(values, clusters if clustered else numpy.arange(len(values)), 1000)
            inside["bootstrap"] += estimate.low <= 0 <= estimate.high
            inside["clt"] += estimate.clt_low <= 0 <= estimate.clt_high
        return {name: count / repetitions for name, count in inside.items()}

    def test_intervals_over_clusters_cover_the_mean(self):
        for share in self.coverage(clustered=True).values():
            self.assertGreater(share, 0.90)
            self.assertLess(share, 0.985)

    def test_intervals_that_forget_clusters_do_not(self):
        for share in self.coverage(clustered=False).values():
            self.assertLess(share, 0.85)

    def test_the_clustered_error_by_hand(self):
        # Residuals sum to -2 and +2 in the clusters: variance of the mean 2 / 1 * (4 + 4) / 16.
        estimate = statistics.estimate([1, 2, 3, 4], ["a", "a", "b", "b"])
        self.assertAlmostEqual(estimate.mean, 2.5)
        self.assertAlmostEqual(estimate.clt_high - estimate.mean, 1.959963984540054)
        # Two clusters of equal size: a quarter of the resamples each at 1.5 and 3.5, half at 2.5.
        self.assertEqual({round(float(mean), 6) for mean in estimate.means}, {1.5, 2.5, 3.5})

    def test_the_same_input_gives_the_same_interval(self):
        values, clusters = list(range(30)), [i // 3 for i in range(30)]
        statistics._draws.cache_clear()
        first = statistics.estimate(values, clusters)
        statistics._draws.cache_clear()
        self.assertEqual(first, statistics.estimate(values, clusters))

    def test_one_cluster_says_nothing_about_others(self):
        estimate = statistics.estimate([1.0, 2.0], ["a", "a"])
        self.assertTrue(numpy.isnan(estimate.low) and numpy.isnan(estimate.clt_low) and numpy.isnan(estimate.p_value))
        self.assertEqual(statistics.sign(estimate), "undecided")

    def test_differences_are_of_shared_cases_alone(self):
        arms = read_lines(runs_of("x", [0.3, 0.5, 9.0]) + runs_of("y", [0.1, 0.2])).by_arm("nq")
        difference = statistics.mean_difference(arms["x"], arms["y"], "kl")
        self.assertAlmostEqual(difference.mean, 0.25)
        self.assertEqual(difference.num_cases, 2)
        self.assertIsNone(statistics.mean_difference(arms["x"], arms["y"], "f1"))


class Tests(unittest.TestCase):
    def test_mcnemar_by_hand(self):
        self.assertEqual(statistics.mcnemar(0, 0), 1.0)
        self.assertAlmostEqual(statistics.mcnemar(1, 5), 2 * 7 / 64)
        self.assertAlmostEqual(statistics.mcnemar(8, 2), 2 * 56 / 1024)
        self.assertAlmostEqual(statistics.mcnemar(0, 10), 2 / 1024)
        self.assertEqual(statistics.mcnemar(3, 3), 1.0)

    def test_holm_by_hand(self):
        adjusted = statistics.holm([0.01, 0.04, float("nan"), 0.03, 0.005])
        numpy.testing.assert_allclose(adjusted, [0.03, 0.06, float("nan"), 0.06, 0.02])
        self.assertEqual(statistics.holm([0.9, 0.8]), [1.0, 1.0])
        self.assertEqual(statistics.holm([]), [])

    def test_verdicts(self):
        clusters = list(range(100))
        small = statistics.estimate([0.001 * (-1) ** i for i in clusters], clusters)
        large = statistics.estimate([0.5 + 0.001 * (-1) ** i for i in clusters], clusters)
        vague = statistics.estimate([(-1) ** i for i in clusters], clusters)
        self.assertEqual([statistics.equivalence(e, 0.02) for e in (small, large, vague)],
                         ["equal", "different", "undecided"])
        self.assertEqual([statistics.sign(e) for e in (small, large, vague)], ["undecided", "above", "undecided"])
        self.assertLess(large.p_value, 0.001)
        self.assertGreater(vague.p_value, 0.5)


class Policies(unittest.TestCase):
    def contest(self, *lines):
        base = runs_of("r", [0.4, 0.4, 0.4], "reuse")
        return comparisons.contest(read_lines([line for part in (base, *lines) for line in part]).by_arm("nq"))

    def test_the_front_has_what_nothing_beats(self):
        contest = self.contest(runs_of("r+first:1", [0.3] * 3, share=0.1), runs_of("r+blend:1", [0.35] * 3, share=0.2),
                               runs_of("r+budget:1", [0.1] * 3, share=0.3))
        front = comparisons.front_by_rows([*contest.unrepaired.values(), *contest.points])
        self.assertEqual(front, {"r", "r+first:1", "r+budget:1"})

    def test_the_best_other_policy_at_equal_rows(self):
        contest = self.contest(runs_of("r+first:1", [0.39] * 3, share=0.4), runs_of("r+blend:1", [0.1] * 3, share=0.2),
                               runs_of("r+budget:1", [0.1] * 3, share=0.1), runs_of("r+budget:2", [0.1] * 3, share=0.9))
        inside, beyond = (point for point in contest.points if point.policy.startswith("budget"))
        rival = comparisons.rival_of(inside, contest)
        # Half way from 0.4 to 0.1 in the logarithm: 0.2.
        self.assertEqual(rival.name, "blend")
        self.assertAlmostEqual(rival.kl, 0.2)
        for value in (rival.ratio, rival.low, rival.high):
            self.assertAlmostEqual(value, 0.5)
        self.assertIsNone(comparisons.rival_of(beyond, contest))

    def test_policies_are_compared_over_the_same_questions(self):
        contest = self.contest(runs_of("r+first:1", [0.3, 0.5, 9.0], share=0.1), runs_of("r+blend:1", [0.3], share=0.1),
                               runs_of("r+budget:1", [0.3, 0.2], share=0.1))
        self.assertEqual(contest.left_out, ["r+blend:1"])
        self.assertEqual(contest.num_cases, 2)
        self.assertAlmostEqual(contest.points[0].kl.mean, 0.4)

    def test_repair_may_be_measured_on_a_part_of_the_questions(self):
        contest = comparisons.contest(read_lines(
            runs_of("full", [0] * 20, "reference") + runs_of("shuffled-full", [0.1] * 20, "control")
            + runs_of("r", [0.4] * 20, "reuse") + runs_of("r+first:1", [0.3] * 4, share=0.1)).by_arm("nq"))
        self.assertEqual([point.arm for point in contest.points], ["r+first:1"])
        self.assertEqual((contest.num_cases, contest.floor.kl.num_cases), (4, 4))

    def test_exact_matches_are_counted_both_ways(self):
        arms = read_lines(runs_of("full", [0] * 4, "reference", em=1, f1=1)[:3]
                          + [RUN | {"case": "q3", "cluster": "p3", "em": 0, "f1": 0}]
                          + [line | {"em": i % 2, "f1": i % 2} for i, line in enumerate(runs_of("x", [1] * 4))])
        compared = {arm.arm: arm for arm in comparisons.compare_all(arms.by_arm("nq"))}
        self.assertEqual((compared["x"].em_gained, compared["x"].em_lost), (1, 2))
        self.assertAlmostEqual(compared["x"].em_p, 1.0)


class Map(unittest.TestCase):
    def test_cells_and_their_verdicts(self):
        points = [{"kind": "map", "axis": "neighbours", "x": x, "set": "nq", "case": f"q{i}", "floor": 0.1,
                   "kl": 0 if x == 0 else 0.02 * x + 0.001 * i} for x in (8, 0, 2) for i in range(5)]
        panel, = map_cells.panels(read_lines(points).map_points)
        self.assertEqual(panel.xs, ["0", "2", "8"])
        self.assertEqual([panel.cells[x, ""].verdict for x in panel.xs], ["exact", "free", "repair"])

    def test_an_axis_with_many_places_is_cut_into_parts(self):
        points = [{"kind": "map", "axis": "distance", "x": i / 60, "set": "nq", "case": f"q{i}", "kl": i / 60}
                  for i in range(60)]
        panel, = map_cells.panels(read_lines(points).map_points)
        self.assertEqual(len(panel.xs), map_cells.PARTS)
        self.assertEqual([panel.cells[x, ""].kl.num_cases for x in panel.xs], [10] * 6)
        self.assertEqual({cell.verdict for cell in panel.cells.values()}, {"no floor"})


class Synthetic(unittest.TestCase):
    def test_known_effects_are_found(self):
        arms = read_lines(list(synthetic.runs("xquad", 60))).by_arm("xquad")
        compared = {arm.arm: arm for arm in comparisons.compare_all(arms)}
        self.assertEqual(statistics.sign(compared["reanchored"].over_floor), "above")
        self.assertEqual(statistics.sign(compared["format:fp8"].over_floor), "below")
        self.assertEqual(statistics.equivalence(compared["exact-prefix"].nll, comparisons.NLL_MARGIN), "equal")
        self.assertEqual(statistics.equivalence(compared["no-context"].nll, comparisons.NLL_MARGIN), "different")


if __name__ == "__main__":
    unittest.main()
