#!/usr/bin/env python3
"""Writes the tokenizer goldens: what Hugging Face's `tokenizers` makes of difficult texts.

Needs: pip install tokenizers jinja2 gguf
Usage: make_tokenizer_golden.py [--smollm2 SmolLM2-135M-Instruct.gguf] [--out FOLDER]

Files written:
  tokenizer_llama3_small.json  a tokenizer of Llama 3's kind, trained here on text made here
  tokenizer_smol_small.json    one of SmolLM2's kind, whose vocabulary lacks some bytes, as SmolLM2's does
  tokenizer_golden.json        ids of every text by either; chats; and, given the GGUF, the same by SmolLM2's own
                               vocabulary (without it, that part of an existing file is kept)
"""

import argparse
import json
import pathlib
import random

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIALS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
]
CHAT_ML_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# What the templates of Llama 3 and 3.1 render for conversations without tools, in short.
LLAMA3_TEMPLATE = (
    "{% for m in messages %}{% if loop.first %}{{ '<|begin_of_text|>' }}{% endif %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA31_TEMPLATE = (
    "{% set ns = namespace(system='', rest=messages) %}"
    "{% if messages and messages[0].role == 'system' %}"
    "{% set ns.system = messages[0].content | trim %}{% set ns.rest = messages[1:] %}{% endif %}"
    "{{ '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{ 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' + ns.system + '<|eot_id|>' }}"
    "{% for m in ns.rest %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

TEXTS = [
    "", " ", "\n", "\t", "a", "Hello, world!", "Hello  world", "  leading", "trailing  ", "a   b    c",
    "I'm you're he's we'll they'd I've don't", "I'M YOU'RE HE'S WE'LL THEY'D I'VE DON'T", "it'ſ an old letter",
    "'tis ''quoted'' 'sss 'll'll", "1 12 123 1234 12345678 3.14159 -42 1,000,000", "x1y22z333", "  7  88", "7 \n 8",
    "½ ⅔ Ⅷ ① ٣٤ ४५ 𝟘𝟙𝟚", "line\nline\r\nline\n\n\nline\n  \n\tx", "end \n", "\n\n  \n", " \n \n ", "!?\n\n!?\r\n ok",
    "def f(x):\n    if x<=0x1F: return {'k': [x**2, \"y\"]}  # why?\n\treturn x\n", "for(int i=0;i<n;++i){a[i]+=b[i]&~c;}",
    "SELECT * FROM t WHERE a<>'b''c';--\n", "https://example.org/a/b?c=d&e=%20f#g", "foo_bar fooBar FOO-BAR __init__",
    "Ünïcödé naïve café Straße İstanbul ǅ ŉ", "Привет, мир! Как дела?", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم ١٢٣",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界！今天是2024年。", "こんにちは、世界。カタカナ", "안녕하세요 세계", "Xin chào thế giới",
    "👋🌍 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 e\u0301 🇩🇪", "🙂🙂🙂 text🙂text", "\u00a0nbsp\u2003em\u3000wide\u202fnarrow\u2028ls\u2029ps\u0085nel",
    "\u180emvs\u180e zero\u200bwidth\u200d \ufeffbom", "soft\u00adhyphen \u0378unassigned \ue000private \U000f0000far",
    "nul\x00 bell\x07 esc\x1b[0m del\x7f", "missing !\x04! \x13\x14 a\x16b \U00040000 x", "…—–“”‘’«»", "∑∫√≠≤∞ x²+y³ µm °C",
    "A" * 40, "ab" * 40, " " * 33 + "x", "\n" * 17, "=" * 50, "the the the theory of theirs", " torture tortures",
    "a" * 300, "Ġ is a letter, and so is ÿ", "<|im_end|", "< |eot_id|>", "\u1680\u205f \u2000\u200a",
]
SPECIAL_TEXTS = [
    "<|im_start|>user\nhi<|im_end|>\n", "a<|eot_id|>b", "<|begin_of_text|>  x <|end_of_text|>", "<|<|im_end|>|>",
    "<|im_start|><|im_start|>", "<|eot_id|", "\n<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>",
    "<|endoftext|><|end_of_text|> 12<|im_end|>34",
]
CHATS = [
    [],
    [["user", "Hello!"]],
    [["system", "Be brief."], ["user", "What is 2+2?"], ["assistant", "4"], ["user", "And 12*12?"]],
    [["user", "  padded \n\u00a0"], ["assistant", "\n\nyes"]],
    [["user", ""], ["system", "late system"]],
]


def random_texts(count, seed):
    """Characters of every kind that the patterns tell apart, in short random runs."""
    rng = random.Random(seed)
    kinds = [
        " ", "  ", "\n", "\r", "\r\n", "\t", "\u00a0", "\u3000", "\u0085", "\u180e", "a", "B", "é", "ſ", "я", "中", "ǅ", "ª",
        "1", "23", "٤", "Ⅻ", "²", "'", "'s", "'S", "'re", "'LL", ".", "_", "-", "€", "\u0301", "\u200d", "👍", "\x00", "\x04",
    ]
    return ["".join(rng.choices(kinds, k=rng.randint(2, 16))) for _ in range(count)]


def training_text():
    rng = random.Random(1)
    syllables = "ka lo mi ther ing the an re on ed to st en cha pri mo ver al ter es tion".split()
    lines = []
    for _ in range(3000):
        words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(rng.randint(3, 12))]
        if rng.random() < 0.3:
            words.insert(rng.randrange(len(words)), str(rng.randrange(5000)))
        if rng.random() < 0.2:
            words.append(rng.choice(["don't", "I'm", "приветмир", "世界你好", "naïve", "==", "::", "if (x) {", "\n  return"]))
        lines.append(" ".join(words).capitalize() + rng.choice([".", "!", "?", ",", ";\n", "\n\n"]))
    return lines


def trained(pre_tokenizer, vocab_size, alphabet, ignore_merges):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_specials(tokenizer, specials):
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])


def make_llama3_small():
    pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer = trained(pre_tokenizer, 592, pre_tokenizers.ByteLevel.alphabet(), ignore_merges=True)
    # Pieces that no merge makes: only with ignore_merges are they ever used.
    content = json.loads(tokenizer.to_str())
    vocab = content["model"]["vocab"]
    in_byte_alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in [" torture", " мир"]:
        piece = in_byte_alphabet.pre_tokenize_str(text)[0][0]
        assert piece not in vocab
        vocab[piece] = len(vocab)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    with_specials(tokenizer, LLAMA3_SPECIALS)
    bos = LLAMA3_SPECIALS[0]
    template = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def smol_pre_tokenizer():
    return pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])


def make_smol_small():
    missing = {"Ą", "Ć", "ē", "Ĕ", "Ė", "ñ", "ò", "À", "Á"}  # bytes 04 06 13 14 16 F1 F2 C0 C1
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c not in missing]
    tokenizer = trained(smol_pre_tokenizer(), 500, alphabet, ignore_merges=False)
    with_specials(tokenizer, CHAT_ML_SPECIALS)
    return tokenizer


def make_smollm2(path):
    import gguf

    fields = gguf.GGUFReader(path).fields
    pieces = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = smol_pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    with_specials(tokenizer, [piece for piece, kind in zip(pieces, types) if kind == 3])
    return tokenizer, fields["tokenizer.chat_template"].contents()


def golden_of(tokenizer, texts, chat_templates):
    tokenizer.encode_special_tokens = False
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    result = {
        "texts": [{"text": text, "ids": encode(text)} for text in texts],
        "parsed": [{"text": text, "ids": encode(text)} for text in SPECIAL_TEXTS],
        "chats": {},
    }
    # As transformers sets it up.
    jinja = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    for name, template in chat_templates.items():
        rendered = []
        for chat in CHATS:
            messages = [{"role": role, "content": content} for role, content in chat]
            for open_turn in (False, True):
                text = jinja.from_string(template).render(messages=messages, add_generation_prompt=open_turn)
                rendered.append({"messages": chat, "open": open_turn, "ids": encode(text)})
        result["chats"][name] = rendered
    tokenizer.encode_special_tokens = True
    result["plain"] = [{"text": text, "ids": encode(text)} for text in SPECIAL_TEXTS]
    return result


def save(path, content):
    path.write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", help="the GGUF file of SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--num-random", type=int, default=120)
    args = parser.parse_args()

    texts = TEXTS + random_texts(args.num_random, seed=2)
    llama3, smol = make_llama3_small(), make_smol_small()
    save(args.out / "tokenizer_llama3_small.json", json.loads(llama3.to_str()))
    save(args.out / "tokenizer_smol_small.json", json.loads(smol.to_str()))

    golden_path = args.out / "tokenizer_golden.json"
    golden = {
        "llama3_small": golden_of(llama3, texts, {"llama3": LLAMA3_TEMPLATE, "llama31": LLAMA31_TEMPLATE}),
        "smol_small": golden_of(smol, texts, {}),
    }
    if args.smollm2:
        smollm2, template = make_smollm2(args.smollm2)
        golden["smollm2"] = golden_of(smollm2, texts, {"chat_ml": template})
    elif golden_path.exists():
        golden["smollm2"] = json.loads(golden_path.read_text())["smollm2"]
    save(golden_path, golden)


if __name__ == "__main__":
    main()
