"""Golden files of ferrotune-data: tokenizers made from our own text, ids by SentencePiece, plans by a second reading.

Run with the reference environment (versions in README.md):

    python generate.py [PATH OF THE SHARED DATA FOLDER]

Without the folder the files that need the families' real tokenizers are left as they are.
"""

import gzip
import hashlib
import io
import json
import struct
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece as spm
import tokenizers

HERE = Path(__file__).parent
PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)

# Our own text: prose, code, numbers, several scripts, white space in every place, and spellings of special tokens.
TEXTS = [
    "The kettle sings before the water boils.",
    "A ferry crosses the lake twice a day, at nine and at five.",
    "Rust moves values; a borrow lends them for a while.",
    "Seven times eight is fifty-six, and 7 * 8 == 56.",
    "  two spaces before, two after  ",
    "tabs\tand\t\ttabs",
    "one line\nnext line\n\nafter a blank line\n",
    "\n\nbegins with a blank line",
    "trailing newline\n",
    " ",
    "\n",
    "a",
    "fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n",
    "def mean(xs):\n    \"\"\"Arithmetic mean.\"\"\"\n    return sum(xs) / len(xs) if xs else 0.0\n",
    "for (i, x) in xs.iter().enumerate() {\n\tprintln!(\"{i}: {x:>8.3}\");\n}",
    "SELECT name, COUNT(*) FROM boats WHERE length > 12.5 GROUP BY name;",
    "if (a<b && c>d) { x <<= 2; } // <s> and </s> are text here",
    "The sequence ends with </s>, begins with <s>, and <unk> is unknown.",
    "</s>",
    "<s>[INST] not a frame [/INST]</s>",
    "a</s>b <s>c",
    "Grüße aus Zürich: Äpfel, Öl und Übermut kosten 3 €.",
    "El niño comió piñas; ¿quién sabe por qué?",
    "東京の天気は晴れです。",
    "Привет, мир! Ещё раз.",
    "مرحبا بالعالم",
    "emoji 🦀🚢 and a family 👩‍👩‍👧‍👦, a flag 🇨🇭",
    "combining e\u0301 and precomposed \u00e9, a no-break\u00a0space, a zero\u200bwidth one",
    "the word mark \u2581 itself, twice \u2581\u2581",
    "x" * 40 + " " + "ab" * 30,
    "0.1 + 0.2 = 0.30000000000000004; 1e-9; 0xFF; 1_000_000",
    "https://example.org/a?b=c&d=%20#e",
]

# Requests and responses through the template.
PAIRS = [
    ("Name a prime.", "Seven."),
    ("Add the numbers.\n3 and 4", "3 + 4 = 7"),
    ("Write a function that doubles a number.", "fn double(x: i32) -> i32 {\n    2 * x\n}"),
    ("Say hello in Japanese.", "こんにちは"),
    ("Which token ends a sequence?", "It is written </s>, but here it is only text."),
    ("Begin with a space.", " a leading space stays"),
    ("Begin with a line break.", "\nafter a line break"),
    ("Answer with a crab.", "🦀"),
    ("A request that ends with a space ", "Yes."),
    ("[INST] nested [/INST]", "[/INST] in the response"),
]


def framed(request, response):
    """The template, written down a second time: the whole text and where the response begins, in bytes."""
    prompt = f"[INST] {PREAMBLE}\n\n{request} [/INST]\n\n"
    return prompt, prompt + response


def byte_offsets(text, offsets):
    """Python's tokenizers counts characters; the Rust side counts bytes."""
    starts = [0]
    for character in text:
        starts.append(starts[-1] + len(character.encode()))
    return [[starts[a], starts[b]] for a, b in offsets]


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, indent=None, separators=(",", ":"))
    (HERE / name).write_text(text.replace('},{"', '},\n{"') + "\n", encoding="utf-8")


def sentencepiece_fixture():
    """A LLaMA-shaped SentencePiece BPE model over our text, and its tokenizer.json."""
    folder = HERE / "sentencepiece"
    folder.mkdir(exist_ok=True)
    corpus = TEXTS + [framed(*pair)[1] for pair in PAIRS] * 2
    lines = [line for text in corpus for line in text.split("\n") if line.strip()]
    lines = [line.replace("\u2581", "").replace("</s>", "").replace("<s>", "") for line in lines]
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=460, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        split_digits=True, character_coverage=0.98, allow_whitespace_only_pieces=True, num_threads=1,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    normal = {p: i for p, i in vocab.items() if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i))}
    # A pair may merge when its join is a piece; pairs are tried in the order of the joined pieces' scores.
    merges = [
        (-sp.get_score(i), normal[p[:k]], normal[p[k:]], [p[:k], p[k:]])
        for p, i in normal.items() for k in range(1, len(p)) if p[:k] in normal and p[k:] in normal
    ]
    merges.sort(key=lambda merge: merge[:3])
    special = [
        {"id": i, "content": sp.id_to_piece(i), "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True} for i in range(3)
    ]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None,
        # Adds BOS on its own: a caller who adds it too would have it twice.
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": vocab, "merges": [merge[3] for merge in merges]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
         "add_bos_token": True, "add_eos_token": False}, indent=2) + "\n", encoding="utf-8")
    return sp, folder


def byte_level_fixture():
    """A byte-level BPE that has pieces with line breaks, for what happens at the prompt's boundary."""
    folder = HERE / "byte_level"
    folder.mkdir(exist_ok=True)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    # No regular expression: merges may cross words and line breaks.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<|begin|>", "<|end|>"], show_progress=False, max_token_length=6,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    corpus = TEXTS + [text for pair in PAIRS for text in framed(*pair)]
    tokenizer.train_from_iterator(corpus + ["[/INST]\n\n\n"] * 60 + ["\n\n\nX"] * 60, trainer)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "special_tokens_map.json").write_text(json.dumps(
        {"bos_token": {"content": "<|begin|>"}, "eos_token": {"content": "<|end|>"}}) + "\n", encoding="utf-8")
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 0, "eos_token_id": [1, 5]}) + "\n", encoding="utf-8")
    return folder


def rows_of(folder, encode_reference):
    """Ids by the reference and offsets by Python's tokenizers, for all texts and templated pairs."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    rows = []
    for text in TEXTS + [framed(*pair)[1] for pair in PAIRS]:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        ids = encode_reference(text) if encode_reference else encoding.ids
        assert ids == encoding.ids, (text, ids, encoding.ids)
        rows.append({"text": text, "ids": ids, "offsets": byte_offsets(text, encoding.offsets),
                     "decoded": tokenizer.decode(ids)})
    return rows


def chacha8(key, blocks):
    """The ChaCha stream cipher with 8 rounds, 64-bit counter and zero nonce (Bernstein 2008), as 64-bit words."""
    def rotate(x, n):
        return ((x << n) | (x >> (32 - n))) & 0xFFFFFFFF

    def quarter(s, a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            s[z] = rotate(s[z] ^ s[x], n)

    for block in range(blocks):
        start = list(struct.unpack("<4I", b"expand 32-byte k")) + list(struct.unpack("<8I", key))
        start += [block & 0xFFFFFFFF, block >> 32, 0, 0]
        state = start[:]
        for _ in range(4):
            for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                               (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(state, a, b, c, d)
        words = struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(state, start)))
        yield from struct.unpack("<8Q", words)


def permutation(length, purpose, seeds):
    """Fisher and Yates from the end; draws above the largest multiple of the bound are thrown away."""
    key = hashlib.sha256(f"ferrotune {purpose} {' '.join(map(str, seeds))}".encode()).digest()
    stream = chacha8(key, length // 4 + 16)
    order = list(range(length))
    for end in range(length - 1, 0, -1):
        bound = end + 1
        limit = 2**64 // bound * bound
        draw = next(word for word in stream if word < limit)
        order[end], order[draw % bound] = order[draw % bound], order[end]
    return order


def plans():
    splits = [{"records": n, "seed": seed, "order": permutation(n, "split", [seed])}
              for n, seed in ((1, 0), (2, 0), (7, 1), (100, 42), (257, 2**64 - 1))]
    lengths = [(37 * i * i + 11 * i) % 97 + 3 for i in range(53)]
    epochs = [{"epoch": epoch, "order": permutation(53, "epoch", [42, epoch]),
               "batches": permutation(13, "batches", [42, epoch])} for epoch in (0, 1)]
    write("permutations.json", {"splits": splits, "lengths": lengths, "epochs": epochs})


def parquet_fixtures():
    """Files by pyarrow: row groups, dictionary and plain pages, nulls, several compressions, lists of structs."""
    pairs = [{"prompt": f"Below is an instruction that describes a task. Write a response that appropriately "
                        f"completes the request.\n### Instruction:\n{a}\n### Response:\n", "response": b,
              "source": "own", "id": i} for i, (a, b) in enumerate(PAIRS)]
    pairs[3]["response"] = None
    pairs[4]["prompt"] = "no frame around this"
    table = pa.Table.from_pylist(pairs)
    for compression in ("none", "snappy", "gzip", "zstd", "brotli", "lz4"):
        pq.write_table(table, HERE / f"instruct_{compression}.parquet", compression=compression, row_group_size=4)
    # The bytes 0xff 0xfe are no UTF-8; a view keeps them under a text type, as careless writers do.
    raw = pa.array([b"Seven.", b"\xff\xfe", b"Nine."], pa.binary()).view(pa.string())
    broken = pa.table({"instruction": pa.array(["a", "b", "c"]), "input": pa.nulls(3), "output": raw})
    pq.write_table(broken, HERE / "alpaca_invalid_utf8.parquet", compression="none")
    messages = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a prime."},
         {"role": "assistant", "content": "Seven."}],
        [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."},
         {"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}],
        [],
        None,
        [{"role": "user", "content": None}, {"role": "assistant", "content": "?"}],
        [{"role": "user", "content": "Last."}, {"role": "assistant", "content": "Row."}],
    ]
    pq.write_table(pa.table({"messages": messages}), HERE / "messages.parquet", row_group_size=4)
    pq.write_table(pa.table({"instruction": ["a"], "output": [1]}), HERE / "alpaca_numbers.parquet")


def digest_of(id_lists):
    """SHA-256 over the ids as decimal numbers, blanks between ids and a line for each text."""
    return hashlib.sha256("".join(" ".join(map(str, ids)) + "\n" for ids in id_lists).encode()).hexdigest()


def real_tokenizers(shared):
    """Ids of the families' own tokenizers by SentencePiece: in full for our texts, as digests for the shared data."""
    alpaca = json.loads((shared / "alpaca-999.json").read_text(encoding="utf-8"))
    pairs = [(r["instruction"] + ("\n" + r["input"] if r["input"] else ""), r["output"]) for r in alpaca]
    code = [json.loads(line) for line in gzip.open(shared / "HumanEval.jsonl.gz", "rt", encoding="utf-8")]
    code = [r["prompt"] + r["canonical_solution"] for r in code]
    result = {}
    for family in ("llama2", "mixtral"):
        sp = spm.SentencePieceProcessor(model_file=str(shared / "tokenizers" / family / "tokenizer.model"))
        own = TEXTS + [framed(*pair)[1] for pair in PAIRS]
        plain = [sp.encode(text) for pair in pairs for text in pair]
        whole = [[1] + sp.encode(framed(*pair)[1]) + [2] for pair in pairs]
        # Training ids of the prompt are those of the prompt alone: no piece of these models holds a line break.
        prompts = [[1] + sp.encode(framed(*pair)[0]) for pair in pairs]
        assert all(w[: len(p)] == p for w, p in zip(whole, prompts))
        snippets = [sp.encode(text) for text in code]
        result[family] = {
            "own": [sp.encode(text) for text in own],
            "alpaca": {"texts": len(plain), "tokens": sum(map(len, plain)), "sha256": digest_of(plain)},
            "templated": {"texts": len(whole), "tokens": sum(map(len, whole)), "sha256": digest_of(whole),
                          "supervised": sum(len(w) - len(p) for w, p in zip(whole, prompts))},
            "prompts": {"texts": len(prompts), "tokens": sum(map(len, prompts)), "sha256": digest_of(prompts)},
            "code": {"texts": len(snippets), "tokens": sum(map(len, snippets)), "sha256": digest_of(snippets)},
        }
    write("real_tokenizers.json", result)


def main():
    sp, folder = sentencepiece_fixture()
    write("sentencepiece.json", rows_of(folder, sp.encode))
    write("byte_level.json", rows_of(byte_level_fixture(), None))
    write("pairs.json", [{"request": a, "response": b, "text": framed(a, b)[1],
                          "prompt": framed(a, b)[0]} for a, b in PAIRS])
    plans()
    parquet_fixtures()
    if len(sys.argv) > 1:
        real_tokenizers(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
