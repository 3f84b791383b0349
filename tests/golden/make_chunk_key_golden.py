#!/usr/bin/env python3
"""Golden vectors of chunk keys, from hmac and hashlib alone: a second reading of docs/formats.md.

    make_chunk_key_golden.py chunk_key.json           writes the file
    make_chunk_key_golden.py --check chunk_key.json   recomputes every key from the file's inputs; exit code 1 on a difference
"""
import hashlib
import hmac
import json
import struct
import sys

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
PAIRINGS = {"half_split": 0, "interleaved": 1}
ANGLE_RULES = {"exact": 0, "fp32_product": 1}
RECIPES = {"alone": 0, "behind_prefix": 1, "exact_context": 2}
# Per kind of scaling: its number, then its fields in order, as (name, type).
SCALINGS = {
    "none": (0, []),
    "linear": (1, [("factor", "real")]),
    "dynamic_ntk": (2, [("factor", "real"), ("original_max_positions", "whole")]),
    "yarn": (3, [("factor", "real"), ("original_max_positions", "whole"), ("beta_fast", "real"),
                 ("beta_slow", "real"), ("attention_factor", "real"), ("truncate", "whole")]),
    "llama3": (4, [("factor", "real"), ("low_freq_factor", "real"), ("high_freq_factor", "real"),
                   ("original_max_positions", "whole")]),
    "long_rope": (5, [("short_factors", "list"), ("long_factors", "list"), ("original_max_positions", "whole"),
                      ("factor", "real"), ("attention_factor", "real")]),
}


def field(tag, payload):
    return struct.pack("<BQ", tag, len(payload)) + payload


def u32s(values):
    return struct.pack("<%dI" % len(values), *values)


def scaling_fields(scaling):
    number, fields = SCALINGS[scaling["kind"]]
    out = field(8, struct.pack("<B", number))
    for name, kind in fields:
        value = scaling[name]
        if kind == "real":
            out += field(9, struct.pack("<d", value))
        elif kind == "whole":
            out += field(9, struct.pack("<q", int(value)))
        else:
            out += field(10, struct.pack("<%df" % len(value), *value))
    return out


def common(domain, options):
    geometry, rope = options["geometry"], options["rope"]
    shape = [geometry[name] for name in ("num_layers", "num_kv_heads", "head_dim", "rotary_dim")]
    return (field(0, domain)
            + field(1, struct.pack("<Q", len(bytes.fromhex(options["secret"]))))
            + field(2, options["name_space"].encode())
            + field(3, bytes.fromhex(options["model"]))
            + field(4, u32s(shape + [DTYPES[geometry["dtype"]]]))
            + field(5, struct.pack("<d", rope["theta"]))
            + field(6, struct.pack("<B", PAIRINGS[rope["pairing"]]))
            + field(7, struct.pack("<B", ANGLE_RULES[rope["angle_rule"]]))
            + scaling_fields(rope["scaling"]))


def keyed(options, message):
    return hmac.new(bytes.fromhex(options["secret"]), message, hashlib.sha256).hexdigest()


def context_after(options, blocks):
    digest = keyed(options, common(b"pikv/context/v1", options))
    for block in blocks:
        digest = keyed(options, common(b"pikv/context/v1", options) + field(12, bytes.fromhex(digest))
                       + field(13, u32s(block)))
    return digest


def chunk_key(options, recipe, context, tokens):
    return keyed(options, common(b"pikv/chunk/v1", options) + field(11, struct.pack("<B", RECIPES[recipe]))
                 + field(12, bytes.fromhex(context)) + field(13, u32s(tokens)))


def answers(case):
    options = case["options"]
    context = context_after(options, case["context_blocks"])
    stored = "00" * 32 if case["recipe"] == "alone" else context
    return {"context": context, "key": chunk_key(options, case["recipe"], stored, case["tokens"])}


def inputs():
    def options(**changes):
        base = {
            "secret": bytes(range(32)).hex(),
            "name_space": "private:acme",
            "model": hashlib.sha256(b"model").hexdigest(),
            "geometry": {"num_layers": 32, "num_kv_heads": 8, "head_dim": 128, "rotary_dim": 128, "dtype": "bfloat16"},
            "rope": {"theta": 500000.0, "pairing": "half_split", "angle_rule": "fp32_product",
                     "scaling": {"kind": "none"}},
        }
        for name, value in changes.items():
            base[name] = {**base[name], **value} if isinstance(value, dict) else value
        return base

    def case(name, tokens, recipe="alone", context_blocks=(), **changes):
        return {"name": name, "options": options(**changes), "recipe": recipe,
                "context_blocks": [list(block) for block in context_blocks], "tokens": list(tokens)}

    few = [1, 2, 3, 4294967295, 0, 128000]
    yield case("no tokens", [])
    yield case("one token", [7])
    yield case("few tokens", few)
    yield case("512 tokens", [(i * 2654435761) % 128256 for i in range(512)])
    yield case("behind a prefix", few, "behind_prefix", [[9, 8, 7]])
    yield case("exact context of two blocks", few, "exact_context", [[9, 8, 7], [6, 5]])
    yield case("exact context at the start", few, "exact_context")
    yield case("shortest secret", few, secret=bytes(range(16)).hex())
    yield case("the same secret and a zero", few, secret=(bytes(range(16)) + b"\0").hex())
    yield case("secret of one block", few, secret=bytes(range(64)).hex())
    yield case("secret longer than a block", few, secret=bytes(range(65)).hex())
    yield case("shared namespace, UTF-8", few, name_space="shared:b\u00fccher")
    yield case("float16, partly rotated", few,
               geometry={"num_layers": 2, "num_kv_heads": 1, "head_dim": 64, "rotary_dim": 32, "dtype": "float16"})
    yield case("interleaved, exact angles", few, rope={"theta": 10000.0, "pairing": "interleaved",
                                                       "angle_rule": "exact"})
    yield case("linear", few, rope={"scaling": {"kind": "linear", "factor": 4.0}})
    yield case("dynamic NTK", few, rope={"scaling": {"kind": "dynamic_ntk", "factor": 2.5,
                                                     "original_max_positions": 4096}})
    yield case("YaRN", few, rope={"scaling": {"kind": "yarn", "factor": 4.0, "original_max_positions": 32768,
                                              "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 0.0,
                                              "truncate": False}})
    yield case("Llama 3.1", few, rope={"scaling": {"kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                                   "high_freq_factor": 4.0, "original_max_positions": 8192}})
    yield case("LongRoPE", few,
               geometry={"head_dim": 8, "rotary_dim": 8},
               rope={"scaling": {"kind": "long_rope", "short_factors": [1.0, 1.0625, 1.5, 2.0],
                                 "long_factors": [1.0, 2.5, 8.25, 32.0], "original_max_positions": 4096,
                                 "factor": 32.0, "attention_factor": 1.25}})


def main(arguments):
    if arguments[:1] == ["--check"] and len(arguments) == 2:
        with open(arguments[1], encoding="utf-8") as file:
            cases = json.load(file)["cases"]
        wrong = [case["name"] for case in cases if answers(case) != case["expected"]]
        for name in wrong:
            print("differs:", name)
        print("%d of %d vectors agree" % (len(cases) - len(wrong), len(cases)))
        return 1 if wrong or not cases else 0
    if len(arguments) == 1:
        cases = [{**case, "expected": answers(case)} for case in inputs()]
        with open(arguments[0], "w", encoding="utf-8") as file:
            json.dump({"cases": cases}, file, indent=1)
            file.write("\n")
        return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
