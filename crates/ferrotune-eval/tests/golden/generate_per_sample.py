"""Writes alpaca_samples.json and gsm8k_samples.json: the score of every sample by the reference packages.

usage: generate_per_sample.py --squad-v2 squad_metrics.py --alpaca alpaca-999.json --gsm8k gsm8k-test.jsonl --wordnet FOLDER

The samples are those of alpaca.json and gsm8k.json: the texts as references, and the same with every seventh word dropped as
predictions; `next` pairs each prediction with the text after its own. Scores are rounded to 11 decimals, a hundredth of what
the tests allow. See README.md for versions.
"""

import argparse
import json
import pathlib

import sacrebleu
from generate import NoWordNet, load_functions, open_dictionary, write
from nltk.translate import meteor_score
from rouge_score import rouge_scorer

KINDS = ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def scores(predictions, references, wordnet, squad):
    pairs = list(zip(predictions, references))
    out = {"bleu": [sacrebleu.sentence_bleu(p, [r], use_effective_order=True).score for p, r in pairs]}
    for word_order in [0, 2]:
        metric = sacrebleu.CHRF(word_order=word_order)
        out["chrF2" + "+" * word_order] = [metric.sentence_score(p, [r]).score for p, r in pairs]
    for name, stem in [("plain", False), ("stemmed", True)]:
        scorer = rouge_scorer.RougeScorer(KINDS, use_stemmer=stem)
        found = [scorer.score(r, p) for p, r in pairs]
        for kind in KINDS:
            out[f"{kind} {name}"] = [one[kind].fmeasure for one in found]
    for name, dictionary in [("meteor", NoWordNet()), ("meteor wordnet", wordnet)]:
        out[name] = [meteor_score.single_meteor_score(r.split(), p.split(), wordnet=dictionary) for p, r in pairs]
    out["squad_em"] = [squad["compute_exact"](r, p) for p, r in pairs]
    out["token_f1"] = [squad["compute_f1"](r, p) for p, r in pairs]
    return {name: [round(float(score), 11) for score in found] for name, found in out.items()}


def corpus(texts, wordnet, squad):
    predictions = [" ".join(w for i, w in enumerate(t.split()) if i % 7 != 3) for t in texts]
    following = scores(predictions, texts[1:] + texts[:1], wordnet, squad)
    kept = ["bleu", "rougeL stemmed", "meteor wordnet", "token_f1"]
    return {"own": scores(predictions, texts, wordnet, squad), "next": {name: following[name] for name in kept}}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--squad-v2", required=True)
    parser.add_argument("--alpaca", type=pathlib.Path, required=True)
    parser.add_argument("--gsm8k", type=pathlib.Path, required=True)
    parser.add_argument("--wordnet", type=pathlib.Path, required=True)
    args = parser.parse_args()
    wordnet = open_dictionary(args.wordnet)
    squad = load_functions(args.squad_v2, "def normalize_answer", "def get_raw_scores")
    outputs = [record["output"] for record in json.loads(args.alpaca.read_text())]
    write("alpaca_samples", corpus(outputs, wordnet, squad))
    answers = [json.loads(line)["answer"] for line in args.gsm8k.read_text().splitlines()]
    write("gsm8k_samples", corpus(answers, wordnet, squad))


if __name__ == "__main__":
    main()
