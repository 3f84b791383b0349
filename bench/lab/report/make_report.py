#!/usr/bin/env python3
"""Writes docs/reuse-map.md and its figures from what the experiment measured.

    make_report.py RESULTS.jsonl... --docs docs

The prose is in reuse_map.template.md beside this file. A line `{{table:NAME}}`, `{{words:NAME}}` or
`{{figure:NAME TEXT}}` of it is replaced by what is generated, between markers; what nothing was measured for says so.
"""
import argparse
import os
import re
import sys

import comparisons
import results as lab

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reuse_map.template.md")
PAGE = "reuse-map.md"
PLACEHOLDER = re.compile(r"^\{\{(\w+):([\w-]+)(?: ([^}]+))?\}\}$")
MISSING = "*Nothing was measured for this.*"


def makers(docs, png):
    """{(kind, name): function of an analysis and a title that gives Markdown or nothing}."""
    import answers_in_words as words
    import draw_arms
    import draw_hits
    import draw_layers
    import draw_map
    import draw_pareto
    import tables
    import tables_of_theory

    figures = {"pareto": draw_pareto.draw, "arms": draw_arms.draw, "layers": draw_layers.draw_errors,
               "attention": draw_layers.draw_attention, "map-planes": draw_map.draw_planes,
               "map-curves": draw_map.draw_curves, "hits": draw_hits.draw}
    text = {"sets": tables.sets, "arms": tables.arms, "answers": tables.answers, "policies": tables.policies,
            "every_policy": tables.every_policy,
            "ours": tables.ours, "controls": tables_of_theory.controls, "map": tables_of_theory.reuse_map,
            "hits": tables_of_theory.hits}
    said = {"freely": words.freely, "repair": words.repair, "recompute": words.recompute,
            "undecided": words.undecided, "front": words.front}

    def link(name, draw):
        def make(analysis, title):
            folder = os.path.join(docs, "figures")
            file = draw(analysis, folder, png)
            if file is None and os.path.exists(os.path.join(folder, f"{name}.svg")):
                os.remove(os.path.join(folder, f"{name}.svg"))  # of earlier results, which the page no longer shows
            return f"![{title or name}](figures/{file})" if file else ""
        return make

    return ({("figure", name): link(name, draw) for name, draw in figures.items()}
            | {("table", name): lambda analysis, _, make=make: make(analysis) for name, make in text.items()}
            | {("words", name): lambda analysis, _, make=make: make(analysis) for name, make in said.items()})


def fill(template, analysis, known):
    """The page. Throws BadResults for a placeholder that nothing fills."""
    lines = ["<!-- Written by bench/lab/report/make_report.py; the prose is in reuse_map.template.md beside it. -->"]
    for number, line in enumerate(template.splitlines(), 1):
        found = PLACEHOLDER.match(line)
        if found:
            kind, name, title = found.groups()
            if (kind, name) not in known:
                raise lab.BadResults(f"{TEMPLATE}:{number}: nothing fills {line}; known are "
                                     f"{', '.join(sorted(f'{kind}:{name}' for kind, name in known))}")
            made = known[kind, name](analysis, title) or MISSING
            lines += [f"<!-- {kind}:{name} -->", "", made, "", f"<!-- end of {kind}:{name} -->"]
        elif "{{" in line:
            raise lab.BadResults(f"{TEMPLATE}:{number}: a placeholder stands alone on its line, as {{{{table:arms}}}}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--docs", required=True, help="the folder of the page; figures go into figures/ inside it")
    parser.add_argument("--png", action="store_true", help="figures as PNG too, for a quick look")
    options = parser.parse_args()
    try:
        results = lab.read(options.results)
        if not results.runs:
            raise lab.BadResults(f"{', '.join(options.results)}: no runs, so there is nothing to report")
        with open(TEMPLATE, encoding="utf-8") as file:
            page = fill(file.read(), comparisons.Analysis(results), makers(options.docs, options.png))
        os.makedirs(options.docs, exist_ok=True)
        with open(os.path.join(options.docs, PAGE), "w", encoding="utf-8") as file:
            file.write(page)
    except (lab.BadResults, OSError) as error:
        sys.exit(f"error: {error}")
    print(os.path.join(options.docs, PAGE))


if __name__ == "__main__":
    main()
