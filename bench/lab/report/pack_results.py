#!/usr/bin/env python3
"""Scored results as a repository keeps them: what the page is made of, in an order of its own, packed.

    pack_results.py RESULTS.jsonl... --out SET.jsonl.gz

Of a case and arm that several files have, the last one counts. The same lines give the same bytes.
"""
import argparse
import gzip
import json
import sys

import results as lab

# Answers and tokens take most of the room, and the page shows neither.
LEFT_OUT = ("answer", "generated", "kl_tokens")
DIGITS = 5


def shortened(value):
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return [shortened(item) for item in value] if isinstance(value, list) else value


def pack(paths):
    """The packed file's text."""
    lines = {}
    for path in paths:
        with lab.open_text(path) as file:
            for number, text in enumerate(file, 1):
                try:
                    fields = json.loads(text)
                    key = (fields["set"], fields["case"], fields.get("arm", ""), fields.get("place", ""))
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise lab.BadResults(f"{path}:{number}: no line of results: {error!r}") from error
                lines[key] = {name: shortened(value) for name, value in fields.items() if name not in LEFT_OUT}
    return "".join(json.dumps(lines[key], sort_keys=True, separators=(",", ":")) + "\n" for key in sorted(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    try:
        # Without a time of making in it.
        packed = gzip.compress(pack(options.results).encode(), mtime=0)
        with open(options.out, "wb") as file:
            file.write(packed)
    except (lab.BadResults, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
