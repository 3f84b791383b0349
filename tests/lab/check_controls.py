#!/usr/bin/env python3
"""Whether what theory fixes beforehand holds in results of lab_run and lab_map; says what does not, and fails."""
import collections
import json
import sys

EXACT = 1e-7  # of KL, in nats per token: far above what rounding leaves, far below what any loss does


def main():
    kl = collections.defaultdict(dict)  # arm, or axis and place -> case -> KL
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            for line in map(json.loads, file):
                kl[line["arm"] if line["kind"] == "run" else line["place"]][line["case"]] = line["kl"]
    wrong = []

    def expect(name, holds, what):
        if not kl.get(name):
            wrong.append(f"{name}: no results")
        wrong.extend(f"{name}, case {case}: KL {value}, {what}" for case, value in kl.get(name, {}).items()
                     if not holds(case, value))

    for exact in ["full", "exact-prefix", "reanchored-behind-system+all", *(place for place in kl
                                                                            if place.startswith("shift="))]:
        expect(exact, lambda _, value: abs(value) <= EXACT, "expected none")
    for lossy in ("shuffled-full", "reanchored"):
        expect(lossy, lambda _, value: value > EXACT, "expected more")
    expect("reanchored", lambda case, value: abs(value - kl["block-mask"].get(case, -1)) <= 1e-3 * value + EXACT,
           "expected that of block-mask")
    if not any(place.startswith("shift=") for place in kl):
        wrong.append("no place of the axis shift")
    print("\n".join(wrong) or f"controls hold over {len(kl)} arms and places")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
