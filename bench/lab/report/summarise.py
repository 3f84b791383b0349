#!/usr/bin/env python3
"""A quick table of results on the terminal, for use while experimenting.

    summarise.py RESULTS.jsonl... [--sort] [--set NAME] [--arm TEXT]

Means over questions, of times medians; KL with its 95 % interval by bootstrap over clusters. `rows` is the share of the
approximate rows that was computed again; `x` is the time to the first token of full recomputation over that of the arm.
The files may still be growing.
"""
import argparse
import signal
import sys

import numpy

import paired_statistics as statistics
import results as lab


def shown(values, form, middle=numpy.mean):
    known = [value for value in values if value == value]
    return format(float(middle(known)), form) if known else "-"


def line(arm, runs, reference):
    kl = statistics.mean_of(runs, "kl")
    every = list(runs.values())
    faster = [reference[case].ms / run.ms for case, run in runs.items() if case in reference and run.ms > 0]
    return [arm, str(kl.num_cases), f"{kl.mean:.3g}",
            f"{kl.low:.3g} {kl.high:.3g}" if kl.num_clusters > 1 else "-",
            shown([100 * run.top1 for run in every], ".1f"), shown([run.nll for run in every], ".3f"),
            shown([100 * run.f1 for run in every], ".1f"), shown([100 * run.fraction for run in every], ".1f"),
            shown([run.passes for run in every], ".1f"), shown([run.ms for run in every], ".1f", numpy.median),
            shown(faster, ".2f", numpy.median)]


HEAD = ["arm", "n", "KL", "95 %", "top-1 %", "NLL", "F1 %", "rows %", "passes", "ms", "x"]


def print_table(lines):
    widths = [max(len(cells[i]) for cells in [HEAD] + lines) for i in range(len(HEAD))]
    for cells in [HEAD] + lines:
        padded = [cells[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
        print("  ".join(padded).rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--sort", action="store_true", help="by KL instead of as they came")
    parser.add_argument("--set", help="this set alone")
    parser.add_argument("--arm", help="the reference, the floor, and arms whose name contains this", default="")
    options = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without complaint
    try:
        results = lab.read(options.results, growing=True)
    except lab.BadResults as error:
        sys.exit(f"error: {error}")
    for set_name in results.sets():
        if options.set and set_name != options.set:
            continue
        arms = results.by_arm(set_name)
        reference = arms.get(lab.REFERENCE, {})
        lines = [line(arm, runs, reference) for arm, runs in arms.items()
                 if options.arm in arm or arm in (lab.REFERENCE, lab.FLOOR)]
        if options.sort:
            lines.sort(key=lambda cells: float(cells[2]))
        print(f"\n{set_name}")
        print_table(lines)
    if results.map_points or results.hits:
        print(f"\nbesides: {len(results.map_points)} points of the map, {len(results.hits)} hit rates")


if __name__ == "__main__":
    main()
