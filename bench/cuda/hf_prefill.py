#!/usr/bin/env python3
"""Full prefill by Hugging Face transformers with torch's SDPA on this machine's GPU: Llama 3.1 8B shapes, random bf16
weights, one prompt, wall time until the logits of the last row are there. The peer that engine_bench is held against.

    hf_prefill.py [TOKENS...]        one line of JSON a length: {"tokens": .., "ms": median}
"""
import json
import statistics
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
              num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072)


def main():
    lengths = [int(x) for x in sys.argv[1:]] or [2048, 4096, 16384]
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPES), attn_implementation="sdpa").eval()
    for length in lengths:
        tokens = torch.randint(0, SHAPES["vocab_size"], (1, length), device="cuda")
        times = []
        with torch.inference_mode():
            for _ in range(7):
                torch.cuda.synchronize()
                start = time.perf_counter()
                model(tokens, logits_to_keep=1).logits.float().cpu()
                times.append(time.perf_counter() - start)
        print(json.dumps({"tokens": length, "ms": round(statistics.median(times[2:]) * 1e3, 2)}), flush=True)


if __name__ == "__main__":
    main()
