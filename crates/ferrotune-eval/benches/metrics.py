"""The reference packages' side of the benchmark `metrics`.

usage: metrics.py pairs.jsonl

For each line of standard input, the name of a metric and a number of pairs, it scores the first so many pairs and prints
one line of JSON: `values`, `seconds` on the clock and `processor` seconds.
"""

import json
import sys
import time

import sacrebleu
from rouge_score import rouge_scorer
from sacrebleu.tokenizers import tokenizer_13a, tokenizer_re

PAIRS = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
PREDICTIONS = [pair["prediction"] for pair in PAIRS]
REFERENCES = [pair["reference"] for pair in PAIRS]


def bleu(count):
    return {"bleu": sacrebleu.corpus_bleu(PREDICTIONS[:count], [REFERENCES[:count]]).score}


def rouge(count):
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=True)
    scores = [scorer.score(reference, prediction) for reference, prediction in zip(REFERENCES[:count], PREDICTIONS)]
    return {kind: sum(score[kind].fmeasure for score in scores) / count for kind in kinds}


for line in sys.stdin:
    name, count = line.split()
    # What sacrebleu remembers of texts it has seen: every round is a first one.
    for tokenizer in (tokenizer_13a.Tokenizer13a, tokenizer_re.TokenizerRegexp):
        getattr(tokenizer.__call__, "cache_clear", lambda: None)()
    clock, processor = time.perf_counter(), time.process_time()
    values = {"bleu": bleu, "rouge": rouge}[name](int(count))
    seconds, processor = time.perf_counter() - clock, time.process_time() - processor
    print(json.dumps({"values": values, "seconds": seconds, "processor": processor}), flush=True)
