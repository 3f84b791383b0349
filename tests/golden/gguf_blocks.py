#!/usr/bin/env python3
"""Writes gguf_blocks.json: random blocks of every encoding and what the Python package `gguf` decodes them to.

Usage: gguf_blocks.py > gguf_blocks.json   (needs the packages gguf and numpy)
"""

import json
import sys

import gguf
import numpy as np
from gguf.quants import dequantize

# Byte offsets of the 16-bit scales within a block; they are kept finite.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q6_K": [208]}
NUM_BLOCKS = {"Q4_K": 2, "Q6_K": 2}


def main() -> None:
    random = np.random.default_rng(20)
    golden = {}
    for name in ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q6_K"]:
        quant_type = gguf.GGMLQuantizationType[name]
        _, block_bytes = gguf.GGML_QUANT_SIZES[quant_type]
        num_blocks = NUM_BLOCKS.get(name, 4 if name in SCALES else 64)
        blocks = random.integers(0, 256, size=(num_blocks, block_bytes), dtype=np.uint8)
        for offset in SCALES.get(name, []):
            scale = random.standard_normal(num_blocks).astype("<f2")
            blocks[:, offset : offset + 2] = scale.view(np.uint8).reshape(num_blocks, 2)
        if name in ("F16", "BF16"):
            blocks[:, 1] &= 0xBF  # neither infinity nor NaN
        values = dequantize(blocks.reshape(1, -1), quant_type).astype("<f4")
        golden[name] = {"bytes": blocks.tobytes().hex(), "floats": values.tobytes().hex()}
    json.dump(golden, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
