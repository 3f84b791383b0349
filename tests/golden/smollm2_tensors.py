#!/usr/bin/env python3
"""Writes smollm2_tensors.json: what the Python package `gguf` decodes some tensors of SmolLM2-135M-Instruct to.

Usage: smollm2_tensors.py SmolLM2-135M-Instruct.Q4_1.gguf > smollm2_tensors.json   (needs the packages gguf and numpy)

Per tensor: the shape, the exact sum of its elements rounded once to double, the first values, and the SHA-256 of all
elements as little-endian fp32.
"""

import hashlib
import json
import math
import sys

import gguf
from gguf.quants import dequantize

TENSORS = [
    "token_embd.weight",
    "output_norm.weight",
    "blk.0.attn_norm.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",
    "blk.13.attn_v.weight",
    "blk.13.attn_output.weight",
    "blk.29.ffn_gate.weight",
    "blk.29.ffn_down.weight",
]


def main() -> None:
    reader = gguf.GGUFReader(sys.argv[1])
    by_name = {tensor.name: tensor for tensor in reader.tensors}
    golden = {}
    for name in TENSORS:
        tensor = by_name[name]
        values = dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        golden[name] = {
            "type": tensor.tensor_type.name,
            "shape": list(values.shape),
            "sum": math.fsum(values.ravel().tolist()),
            "first": [float(value) for value in values.ravel()[:8]],
            "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
        }
    json.dump(golden, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
