"""Writes what the engine's forward pass is compared with, computed by torch and transformers in fp32.

    python make_engine_golden.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf

- engine_smollm2.json: for several prompts of the GGUF model, given as token ids, the most likely next token at every
  position and the ten largest logits of the last one;
- tiny_llama/: a random llama of a few kilobytes with grouped query heads and llama3 rope scaling, as a Hugging Face
  folder, and beside it tiny_llama/golden.json with its logits and rotary frequencies.

Needs torch, transformers, gguf, safetensors. Leave out --gguf to write only the tiny model.
"""

import argparse
import json
import pathlib

import gguf
import numpy
import torch
import transformers

HERE = pathlib.Path(__file__).parent
NUM_TOP = 10

STORY = (
    "The lighthouse keeper counted the ships every evening. There were seven of them on Monday, nine on Tuesday, and "
    "on Wednesday the fog was so thick that he counted only the horns. His daughter kept the log in a blue notebook, "
    "one line for each day, with the weather in the first column and the ships in the second. "
)

# Plain prose, a chat turn, code, a list to continue, other alphabets, and a longer text that repeats itself.
PROMPTS = {
    "prose": "Water boils at a lower temperature on a mountain because the air pressure is lower there. This is why",
    "chat": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nName the three states of "
    "matter and give an example of each.<|im_end|>\n<|im_start|>assistant\n",
    "code": "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    a, b = 0, 1\n    for _ in "
    "range(n):\n        a, b =",
    "list": "1 2 4 8 16 32 64 128 256 512 1024\nMonday, Tuesday, Wednesday, Thursday,",
    "alphabets": "Der Fluss fließt durch die Stadt. La rivière traverse la ville. Река течёт через город. 川は街を",
    "long": STORY * 4 + "On the second Monday she asked her father how many ships there had been, and he said",
}


def check_weights(path, model, config):
    """The dequantised tensors of the file are the model's parameters, query and key rows un-permuted."""
    names = {
        "token_embd.weight": ("model.embed_tokens.weight", 0),
        "output_norm.weight": ("model.norm.weight", 0),
        "blk.3.attn_q.weight": ("model.layers.3.self_attn.q_proj.weight", config.num_attention_heads),
        "blk.3.attn_k.weight": ("model.layers.3.self_attn.k_proj.weight", config.num_key_value_heads),
        "blk.29.ffn_down.weight": ("model.layers.29.mlp.down_proj.weight", 0),
    }
    parameters = dict(model.named_parameters())
    found = 0
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name not in names:
            continue
        name, num_heads = names[tensor.name]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if num_heads:
            rows, columns = values.shape
            values = values.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        assert numpy.array_equal(values, parameters[name].detach().numpy()), f"{name} differs from {tensor.name}"
        found += 1
    assert found == len(names), "the file lacks tensors that were to be compared"


def golden_of(logits):
    top = torch.topk(logits, 2, dim=-1).values
    last = torch.topk(logits[-1], NUM_TOP)
    return {
        "top_1": torch.argmax(logits, dim=-1).tolist(),
        "margins": [round(x, 5) for x in (top[:, 0] - top[:, 1]).tolist()],
        "last_ids": last.indices.tolist(),
        "last_logits": [round(x, 5) for x in last.values.tolist()],
    }


def write_smollm2(path):
    folder, file = str(path.parent), path.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    model.eval()
    check_weights(path, model, model.config)
    prompts = []
    for name, text in PROMPTS.items():
        ids = tokenizer(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        assert len(ids) >= 16, name
        prompts.append({"name": name, "tokens": ids, **golden_of(logits)})
        print(name, len(ids), "tokens, smallest margin", min(prompts[-1]["margins"]))
    write_json(HERE / "engine_smollm2.json", {"model": file, "prompts": prompts})


def write_tiny_llama():
    folder = HERE / "tiny_llama"
    torch.manual_seed(20)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=0,
        eos_token_id=1,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    model = transformers.LlamaForCausalLM(config)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger than a fresh model's, so that attention is not flat and rotation matters.
            if "norm" in name:
                parameter.uniform_(0.7, 1.3)
            else:
                parameter.normal_(0.0, 1.3 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_tiny_tokenizer(folder / "tokenizer.json")
    tokens = torch.randint(0, config.vocab_size, (1, 150), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = model(tokens).logits[0]
    frequencies = model.model.rotary_emb.inv_freq.numpy().view(numpy.uint32).tolist()
    write_json(
        folder / "golden.json",
        {
            "tokens": tokens[0].tolist(),
            "inverse_frequency_bits": frequencies,
            "rows": [0, 1, 17, 63, 64, 149],
            "logits": [[round(x, 6) for x in logits[row].tolist()] for row in (0, 1, 17, 63, 64, 149)],
        },
    )


def write_tiny_tokenizer(path):
    """A folder needs a tokenizer: one special token at either end of 62 single bytes that are never merged."""
    special = {"special": True, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    pieces = [chr(ord("!") + i) for i in range(62)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<|begin|>", **special}, {"id": 1, "content": "<|end|>", **special}],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {piece: i + 2 for i, piece in enumerate(pieces)}, "merges": []},
    }
    write_json(path, tokenizer)


def write_rotary():
    """Frequencies of real models' settings, as bits: (theta, head size, llama3 parameters or none)."""
    cases = []
    llama31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    llama32 = {**llama31, "factor": 32.0}
    for theta, head_dim, scaling in [
        (10000.0, 64, None),
        (100000.0, 64, None),
        (10000.0, 128, None),
        (500000.0, 128, None),
        (500000.0, 128, llama31),
        (500000.0, 64, llama32),
    ]:
        config = transformers.LlamaConfig(
            hidden_size=head_dim * 2,
            num_attention_heads=2,
            head_dim=head_dim,
            max_position_embeddings=131072,
            rope_parameters={"rope_type": "llama3" if scaling else "default", "rope_theta": theta, **(scaling or {})},
        )
        embedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
        bits = embedding.inv_freq.numpy().view(numpy.uint32).tolist()
        cases.append({"theta": theta, "head_dim": head_dim, "llama3": scaling, "inverse_frequency_bits": bits})
    write_json(HERE / "rotary_frequencies.json", cases)


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=pathlib.Path, help="the SmolLM2 model; without it only the small files are written")
    arguments = parser.parse_args()
    write_tiny_llama()
    write_rotary()
    if arguments.gguf:
        write_smollm2(arguments.gguf)
