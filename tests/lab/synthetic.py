"""Results that nobody measured, shaped like the experiment's, for the tests of what reads and draws them."""
import json
import math
import random

LAYERS = 12
POLICIES = {  # family -> (parameters with their share of rows, how much of the error is left at a share)
    "first": ([("first:4", .03), ("first:16", .12), ("first:32", .25)], lambda r: math.exp(-2.2 * r)),
    "edges": ([("edges:8", .12), ("edges:16", .24)], lambda r: math.exp(-2.0 * r)),
    "blend": ([(f"blend:{r}", r) for r in (.05, .1, .16, .3)], lambda r: math.exp(-4.5 * r)),
    "prophet": ([(f"prophet:{r}", r) for r in (.05, .1, .2)], lambda r: math.exp(-6 * r)),
    "random": ([(f"random:{r}", r) for r in (.05, .15, .3)], lambda r: math.exp(-1.1 * r)),
    "budget": ([(f"budget:kl={t}", r) for t, r in ((.1, .04), (.05, .1), (.02, .22))], lambda r: math.exp(-8 * r)),
}
ARMS = {  # name -> (group, KL)
    "full": ("reference", 0), "exact-prefix": ("control", 0), "sorted-prefix": ("order", .05),
    "shuffled-full": ("control", .06), "no-context": ("control", 1.3), "gold-only": ("control", .3),
    "block-mask": ("control", .16), "reuse-local": ("reuse", .33), "reuse-stale": ("reuse", .27),
    "reanchored": ("reuse", .16), "reanchored-behind-system": ("reuse", .14),
    "reanchored-neighbours": ("reuse", .11), "ape": ("reuse", .21), "format:fp8": ("format", .003),
    "format:int4": ("format", .03),
}


def _run(set_name, number, arm, group, kl, share):
    """Hard questions are hard for every arm, and a block-diagonal mask computes the same as `reanchored`."""
    rng = random.Random(f"{set_name} {number} {'reanchored' if arm == 'block-mask' else arm}")
    hardness = random.Random(f"{set_name} {number}").gauss(0, .6)
    mean_kl = kl * math.exp(hardness + rng.gauss(0, .25))
    quality = max(0.0, .62 - .25 * mean_kl)
    f1 = min(1, max(0, rng.gauss(quality, .3)))
    line = {"kind": "run", "set": set_name, "case": f"q{number}", "cluster": f"p{number // 3}", "arm": arm,
            "group": group, "kl": mean_kl, "kl_tokens": [mean_kl] * 16, "top1": max(0, 1 - .4 * mean_kl),
            "nll": 1.5 + .3 * mean_kl + rng.gauss(0, .02), "rms_dp": .1 * mean_kl,
            "rows": 900 * share, "approx_rows": 900, "prompt_rows": 1000, "passes": 1 + (share > 0),
            "ms": 40 + 1000 * share + rng.gauss(0, 3), "em": int(f1 > .6), "f1": f1, "subspan": int(f1 > .5)}
    if group in ("reuse", "repair"):
        line["k_err"] = [.02 + kl * (1 - math.exp(-i / 4)) for i in range(LAYERS)]
        line["v_err"] = [.05 + 1.5 * kl * (1 - math.exp(-i / 3)) for i in range(LAYERS)]
        line["attention_cos"] = 1 - .3 * mean_kl / (1 + mean_kl) + rng.gauss(0, .005)
        line["attention_js"] = .1 * mean_kl
    return line


def runs(set_name, num_cases=24, scale=1.0):
    for number in range(num_cases):
        for arm, (group, kl) in ARMS.items():
            yield _run(set_name, number, arm, group, kl * scale, 1 if arm == "full" else 0)
        for settings, left in POLICIES.values():
            for policy, share in settings:
                base = "reanchored-behind-system"
                yield _run(set_name, number, f"{base}+{policy}", "repair", .14 * scale * left(share), share)
        yield _run(set_name, number, "reanchored+first:16", "repair", .13 * scale, .12)


def _point(axis, x, case, kl, **more):
    return {"kind": "map", "axis": axis, "x": x, "set": "xquad", "case": f"q{case}", "kl": max(0, kl),
            "v_err": max(0, 2 * kl), "floor": .06} | more


def map_points(num_cases=6):
    rng = random.Random(7)
    for case in range(num_cases):
        noise = math.exp(rng.gauss(0, .3))
        for shift in (0, 128, 512, 1024, 2048, 4096):
            yield _point("shift", shift, case, 1e-7)
        for neighbours in (0, 1, 2, 4, 8):
            for tokens in (32, 64, 128, 256, 512):
                kl = noise * .05 * neighbours ** .6 * (128 / tokens) ** .5
                yield _point("neighbours", neighbours, case, kl, y_axis="chunk_tokens", y=tokens)
        for kind, level in (("random", .05), ("same article", .12), ("near-duplicate", .3)):
            for order in ("first", "middle", "last"):
                yield _point("neighbour_kind", kind, case, noise * level, y_axis="order", y=order)
        for distance in (0, .25, .5, .75, 1):
            yield _point("distance", distance, case, noise * (.03 + .1 * distance))


def hits():
    levels = {"chunk": .75, "prefix-retrieved": .12, "prefix-sorted": .22, "prefix-shuffled": .06, "prefix-served": .3}
    for cache, level in levels.items():
        for capacity in (0, 50_000, 200_000, 800_000):
            part = 1 if capacity == 0 else 1 - math.exp(-capacity / 200_000)
            yield {"kind": "hits", "trace": "ragpulse", "cache": cache, "capacity_tokens": capacity,
                   "hit_rate": level * part, "tenths": [level * part * (1 - math.exp(-(i + 1) / 2)) for i in range(10)]}


def write(path, sets=("xquad", "nq", "hotpot", "musique"), num_cases=24, others=True):
    """others: the map and hit rates as well."""
    with open(path, "w", encoding="utf-8") as file:
        for i, name in enumerate(sets):
            for line in runs(name, num_cases, scale=1 + .3 * i):
                file.write(json.dumps(line) + "\n")
        for line in [*map_points(), *hits()] if others else []:
            file.write(json.dumps(line) + "\n")
