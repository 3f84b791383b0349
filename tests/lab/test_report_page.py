#!/usr/bin/env python3
"""The page and its figures, from results that nobody measured. Exit status 77: skipped."""
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

try:
    import numpy  # noqa: F401
    import matplotlib  # noqa: F401
except ImportError as error:
    print(f"skipped: {error.name} is missing (Debian: python3-{error.name})")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
REPORT = os.path.join(HERE, "..", "..", "bench", "lab", "report")
sys.path[:0] = [HERE, REPORT]
import comparisons  # noqa: E402
import make_report  # noqa: E402
import results as lab  # noqa: E402
import synthetic  # noqa: E402


def run(program, *arguments):
    return subprocess.run([sys.executable, os.path.join(REPORT, program), *arguments], capture_output=True, text=True,
                          env=os.environ | {"PYTHONHASHSEED": "random"}, check=False)


def contents(folder):
    """{path inside: bytes}."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.results = os.path.join(cls.folder.name, "all.jsonl")
        synthetic.write(cls.results, sets=("xquad", "hotpot"), num_cases=12)
        cls.docs = os.path.join(cls.folder.name, "docs")
        cls.done = run("make_report.py", cls.results, "--docs", cls.docs)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def page(self, docs=None):
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        with open(os.path.join(docs or self.docs, make_report.PAGE), encoding="utf-8") as file:
            return file.read()

    def test_every_placeholder_is_filled(self):
        page = self.page()
        self.assertNotIn("{{", page)
        self.assertNotIn(make_report.MISSING, page)
        self.assertEqual(len(re.findall(r"^<!-- (\w+:[\w-]+) -->$", page, re.MULTILINE)),
                         len(re.findall(r"^<!-- end of \w+:[\w-]+ -->$", page, re.MULTILINE)))
        self.assertIn("XQuAD", page)
        self.assertNotRegex(page, r"\bnan\b")

    def test_every_figure_is_there_small_and_without_a_date(self):
        figures = re.findall(r"\((figures/[\w-]+\.svg)\)", self.page())
        self.assertEqual(len(figures), 7)
        for name in figures:
            with open(os.path.join(self.docs, name), encoding="utf-8") as file:
                svg = file.read()
            self.assertTrue(xml.etree.ElementTree.fromstring(svg).tag.endswith("svg"))
            self.assertLess(len(svg), 300_000, name)
            self.assertNotIn("<dc:date>", svg)

    def test_the_same_results_give_the_same_bytes(self):
        again = os.path.join(self.folder.name, "again")
        self.assertEqual(run("make_report.py", self.results, "--docs", again).returncode, 0)
        first, second = contents(self.docs), contents(again)
        self.assertEqual(sorted(first), sorted(second))
        for name, content in first.items():
            self.assertEqual(content, second[name], name)

    def test_controls_say_what_theory_says(self):
        rows = [line for line in self.page().splitlines() if "block-diagonal mask" in line and line.startswith("|")]
        self.assertEqual(len(rows), 2)
        for row in rows:
            self.assertTrue(row.endswith("| yes |"), row)

    def test_a_broken_control_is_seen(self):
        with open(self.results, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        for line in lines:
            if line.get("arm") == "block-mask" and line["set"] == "xquad":
                line["kl"] += 0.01
        rows = "\n".join(self.rebuilt(lines).splitlines())
        self.assertRegex(rows, r"block-diagonal mask \| XQuAD \|.*\*\*no\*\*")
        self.assertRegex(rows, r"block-diagonal mask \| HotpotQA \|.*yes")

    def rebuilt(self, lines):
        """The page over other lines, without drawing."""
        path = os.path.join(self.folder.name, "other.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        known = make_report.makers(self.folder.name, png=False)
        template = "\n".join(f"{{{{{kind}:{name}}}}}" for kind, name in known if kind != "figure")
        return make_report.fill(template, comparisons.Analysis(lab.read([path])), known)

    def test_what_was_not_measured_is_said(self):
        lines = [line for line in synthetic.runs("text", 3) if line["group"] not in ("repair", "control")]
        for line in lines:
            for name in ("em", "f1", "subspan", "ms", "nll", "k_err", "v_err", "attention_cos"):
                line.pop(name, None)
        page = self.rebuilt(lines)
        self.assertIn(f"<!-- table:policies -->\n\n{make_report.MISSING}", page)
        self.assertIn(f"<!-- table:answers -->\n\n{make_report.MISSING}", page)
        self.assertIn("`reanchored`", page)
        self.assertNotRegex(page, r"\bnan\b")

    def test_figures_of_earlier_results_go(self):
        docs = os.path.join(self.folder.name, "fewer")
        os.makedirs(os.path.join(docs, "figures"))
        for name in ("hits.svg", "not-ours.svg"):
            open(os.path.join(docs, "figures", name), "w", encoding="utf-8").close()
        path = os.path.join(self.folder.name, "fewer.jsonl")
        synthetic.write(path, sets=("nq",), num_cases=4, others=False)
        self.assertEqual(run("make_report.py", path, "--docs", docs).returncode, 0)
        self.assertEqual(sorted(os.listdir(os.path.join(docs, "figures"))),
                         ["arms.svg", "attention.svg", "layers.svg", "not-ours.svg", "pareto.svg"])

    def test_bad_templates_are_refused_by_line(self):
        for template, words in (("x\n{{table:none}}", ":2: nothing fills {{table:none}}"),
                                ("see {{table:arms}}", ":1: a placeholder stands alone")):
            with self.assertRaises(lab.BadResults) as caught:
                make_report.fill(template, None, {("table", "arms"): None})
            self.assertIn(words, str(caught.exception))

    def test_bad_results_end_with_a_message(self):
        path = os.path.join(self.folder.name, "bad.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n{}\n")
        for program, more in (("make_report.py", ["--docs", self.docs]), ("summarise.py", [])):
            done = run(program, path, *more)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"error: {path}:2: ", done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_the_quick_table(self):
        done = run("summarise.py", self.results, "--set", "xquad", "--arm", "budget")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("reanchored-behind-system+budget:kl=0.05", done.stdout)
        self.assertNotIn("prophet", done.stdout)
        self.assertNotIn("hotpot", done.stdout)


if __name__ == "__main__":
    unittest.main()
