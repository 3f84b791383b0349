"""Writes rope.json: cos and sin tables as Hugging Face transformers computes them, and as mathematics does.

    python3 make_rope_golden.py rope.json        needs torch (CPU), transformers and mpmath

Each case holds the configuration; `frequencies`, `cos` and `sin` out of LlamaRotaryEmbedding.forward in fp32; and
`exact_cos` and `exact_sin`, the same formula in 60-digit arithmetic, rounded to fp32 once. Arrays of fp32 are strings of
eight hexadecimal digits a value, the bit pattern; rows of [positions][rotary_dim / 2] follow one another.
"""

import json
import struct
import sys

import mpmath
import torch
import transformers
from mpmath import mpf
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

mpmath.mp.dps = 60
LAST = 131071


def longrope_divisors(half_dim):
    short = [1.0 + 0.03125 * (i % 7) for i in range(half_dim)]
    long = [1.0 + 0.75 * i + 0.0625 * (i % 3) for i in range(half_dim)]
    return short, long


def cases():
    usual = [0, 1, 4095, 8192, LAST]
    for dim in (64, 128):
        for theta in (10000.0, 500000.0):
            yield f"default theta={theta:.0f} dim={dim}", dim, LAST + 1, {"rope_type": "default", "rope_theta": theta}, usual
    # Bases where PyTorch's powf is not correctly rounded for one frequency.
    yield "default theta=1000000 dim=128", 128, LAST + 1, {"rope_type": "default", "rope_theta": 1e6}, usual
    yield "default theta=100000 dim=80", 80, LAST + 1, {"rope_type": "default", "rope_theta": 1e5}, usual
    yield "linear", 64, LAST + 1, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}, usual
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    yield "dynamic within", 64, 8192, dynamic, [0, 1, 4095]
    yield "dynamic beyond", 64, 8192, dynamic, [0, 1, 4095, 8192]
    yield "dynamic far beyond", 128, 8192, dynamic, usual
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 8192}
    yield "yarn dim=64", 64, LAST + 1, yarn, usual
    yield "yarn dim=128", 128, LAST + 1, yarn | {"rope_theta": 500000.0}, usual
    yield "yarn attention_factor", 64, LAST + 1, yarn | {"attention_factor": 1.0625}, usual
    yield "yarn truncate=false", 64, LAST + 1, yarn | {"truncate": False, "beta_fast": 24.0, "beta_slow": 2.0}, usual
    llama3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    yield "llama3 dim=64", 64, LAST + 1, llama3 | {"factor": 32.0}, usual
    yield "llama3 dim=128", 128, LAST + 1, llama3, usual
    for dim in (64, 96):
        short, long = longrope_divisors(dim // 2)
        longrope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short, "long_factor": long,
                    "factor": 32.0, "original_max_position_embeddings": 4096}
        yield f"longrope short dim={dim}", dim, LAST + 1, longrope, [0, 1, 4095]
        yield f"longrope long dim={dim}", dim, LAST + 1, longrope, usual
    yield "longrope attention_factor", 64, LAST + 1, {
        **longrope, "short_factor": longrope_divisors(32)[0], "long_factor": longrope_divisors(32)[1],
        "attention_factor": 1.25}, usual


def exact_frequencies(dim, max_positions, rope, sequence_length):
    base, kind = mpf(rope["rope_theta"]), rope["rope_type"]
    factor = mpf(rope.get("factor", 1))
    original = rope.get("original_max_position_embeddings", max_positions)
    exponents = [mpf(2 * i) / dim for i in range(dim // 2)]
    if kind == "dynamic" and sequence_length > original:
        base *= (factor * sequence_length / original - (factor - 1)) ** (mpf(dim) / (dim - 2))
    plain = [base ** -e for e in exponents]
    if kind in ("default", "dynamic"):
        return plain, mpf(1)
    if kind == "linear":
        return [f / factor for f in plain], mpf(1)
    if kind == "llama3":
        low, high = mpf(rope["low_freq_factor"]), mpf(rope["high_freq_factor"])

        def blend(f):
            turns = original * f / (2 * mpmath.pi)
            keep = min(mpf(1), max(mpf(0), (turns - low) / (high - low)))
            return (1 - keep) * f / factor + keep * f

        return [blend(f) for f in plain], mpf(1)
    attention = rope.get("attention_factor")
    if kind == "longrope":
        divisors = rope["long_factor" if sequence_length > original else "short_factor"]
        attention = mpmath.sqrt(1 + mpmath.log(factor) / mpmath.log(original)) if attention is None else mpf(attention)
        return [f / mpf(d) for f, d in zip(plain, divisors)], attention
    assert kind == "yarn"

    def dimension(turns):
        return dim * mpmath.log(original / (turns * 2 * mpmath.pi)) / (2 * mpmath.log(base))

    low, high = dimension(mpf(rope.get("beta_fast", 32))), dimension(mpf(rope.get("beta_slow", 1)))
    if rope.get("truncate", True):
        low, high = mpmath.floor(low), mpmath.ceil(high)
    low, high = max(low, mpf(0)), min(high, mpf(dim - 1))
    stretch = [min(mpf(1), max(mpf(0), (i - low) / (high - low))) for i in range(dim // 2)]
    attention = mpmath.log(factor) / 10 + 1 if attention is None else mpf(attention)
    return [f / factor * s + f * (1 - s) for f, s in zip(plain, stretch)], attention


def bits(values):
    return "".join(f"{struct.unpack('<I', struct.pack('<f', float(v)))[0]:08x}" for v in values)


def make_case(name, dim, max_positions, rope, positions):
    config = LlamaConfig(hidden_size=dim, num_attention_heads=1, head_dim=dim, max_position_embeddings=max_positions,
                         rope_parameters=dict(rope))
    embedding = LlamaRotaryEmbedding(config)
    cos, sin = embedding(torch.zeros(1, dtype=torch.float32), torch.tensor([positions]))
    half = dim // 2
    sequence_length = max(positions) + 1
    frequencies, attention = exact_frequencies(dim, max_positions, rope, sequence_length)
    angles = [p * f for p in positions for f in frequencies]
    settings = {"original_max_position_embeddings": max_positions} | rope  # what transformers takes in its absence
    return {
        "name": name, "rotary_dim": dim, "sequence_length": sequence_length, "rope": settings, "positions": positions,
        "magnitude": float(embedding.attention_scaling),
        "frequencies": bits(embedding.inv_freq),
        "cos": bits(cos[0, :, :half].flatten()), "sin": bits(sin[0, :, :half].flatten()),
        "exact_cos": bits(mpmath.cos(a) * attention for a in angles),
        "exact_sin": bits(mpmath.sin(a) * attention for a in angles),
    }


def main():
    document = {
        "made_by": f"make_rope_golden.py, torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}",
        "cases": [make_case(*case) for case in cases()],
    }
    with open(sys.argv[1], "w", encoding="ascii") as file:
        json.dump(document, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
