"""What lm-evaluation-harness measures with transformers on the trained checkpoint `tinystories-656k`, which is not
committed: expected/benchmarks.json holds log-likelihoods, numbers and digests of generated texts, and nothing else.

    PYTHONPATH=<folder of lm_eval> FERROTUNE_SHARED=<shared data> python benchmarks.py

with lm-eval 0.4.13, transformers 5.23, torch 2.11.0. The synthetic documents are those of ferrotune-eval's golden tasks;
GSM8K's and MGSM's first problems are read from the shared data.
"""

import csv
import hashlib
import importlib.metadata
import json
import os
import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from deterministic import HERE, write_json

TASKS = HERE.parents[2] / "ferrotune-eval" / "tests" / "golden" / "tasks"
sys.path.insert(0, str(TASKS))

from generate import DATA, SUBJECTS, opened  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

MAX_NEW_TOKENS = 24
PROBLEMS = 3
EXAMPLES = 8


def shared():
    return Path(os.environ.get("FERROTUNE_SHARED") or HERE.parents[3] / ".." / "shared") / "data"


def harness():
    folder = shared() / "tinystories-656k"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|start_story|>", eos_token="<|end_story|>", pad_token="<unk>")
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=512, device="cpu")


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mmlu(split, subject):
    with open(DATA / "mmlu" / split / f"{subject}_{split}.csv", newline="", encoding="utf-8") as file:
        return [{"question": row[0], "subject": subject, "choices": row[1:5], "answer": "ABCD".index(row[5])}
                for row in csv.reader(file)]


def math(split):
    files = sorted((DATA / "math" / split).glob("*/*.json"), key=lambda f: (f.parent.name, int(f.stem)))
    return [json.loads(file.read_text()) for file in files]


def requests(task, shots):
    for doc in list(task.eval_docs):
        found = task.construct_requests(doc, task.fewshot_context(doc, shots))
        yield doc, found if isinstance(found, list) else [found]


def chosen(lm, task, shots):
    """The log-likelihood of each choice, and acc and acc_norm of each document."""
    documents = []
    for doc, instances in requests(task, shots):
        found = lm.loglikelihood(instances, disable_tqdm=True)
        scores = task.process_results(doc, found)
        documents.append({"log_likelihoods": [ll for ll, _ in found], **{k: float(v) for k, v in scores.items()}})
    return documents


def generated(lm, task, shots, limit=None):
    """The digest of each answer, and the log-likelihood of the gold answer after the prompt."""
    documents = []
    for place, (doc, (instance,)) in enumerate(requests(task, shots)):
        if place == limit:
            break
        context, arguments = instance.args
        arguments = {**arguments, "max_gen_toks": MAX_NEW_TOKENS}
        instance.arguments = (context, arguments)
        (text,) = lm.generate_until([instance], disable_tqdm=True)
        target = str(task.doc_to_target(doc))
        instance.arguments = (context, " " + target)
        ((ll, is_greedy),) = lm.loglikelihood([instance], disable_tqdm=True)
        documents.append({
            "answer_sha256": hashlib.sha256(text.encode()).hexdigest(), "answer_characters": len(text),
            "gold_log_likelihood": ll, "gold_is_greedy": bool(is_greedy)})
    return documents


def main():
    torch.set_num_threads(1)
    random.seed(0)
    lm = harness()
    found = {"max_new_tokens": MAX_NEW_TOKENS}

    for name, folder, shots in [
        ("mmlu:lm-eval 0", "default", 0), ("mmlu:lm-eval 5", "default", 5), ("mmlu:lm-eval-continuation 0", "continuation", 0),
    ]:
        found[name] = []
        for subject in SUBJECTS:
            splits = {"dev": mmlu("dev", subject), "test": mmlu("test", subject)}
            found[name] += chosen(lm, opened(f"mmlu/{folder}/mmlu_{subject}.yaml", splits), shots)
    gpqa = {"train": rows_of(DATA / "gpqa_synthetic.csv")}
    found["gpqa:lm-eval-zeroshot 0"] = chosen(lm, opened("gpqa/zeroshot/gpqa_main_zeroshot.yaml", gpqa), 0)
    splits = {"train": math("train"), "test": math("test")}
    task = opened("hendrycks_math/hendrycks_math_algebra.yaml", splits)
    found["math:lm-eval-hendrycks 0"] = generated(lm, task, 0)
    found["math:lm-eval-hendrycks 2"] = generated(lm, task, 2)

    lines = [json.loads(line) for line in open(shared() / "gsm8k-test.jsonl", encoding="utf-8")]
    splits = {"train": lines[-EXAMPLES:], "test": lines[:PROBLEMS]}
    found["gsm8k:lm-eval 0"] = generated(lm, opened("gsm8k/gsm8k.yaml", splits), 0)
    found["gsm8k:lm-eval 5"] = generated(lm, opened("gsm8k/gsm8k.yaml", splits), 5)
    for code in ("de", "en"):
        test = []
        for line in open(shared() / f"mgsm_{code}.tsv", encoding="utf-8").read().splitlines()[:PROBLEMS]:
            question, answer = line.split("\t")
            test.append({"question": question, "answer": None, "answer_number": int(answer.replace(",", ""))})
        train = [{"question": "unused", "answer": "unused", "answer_number": 0}]
        task = opened(f"mgsm/native_cot/mgsm_native_cot_{code}.yaml", {"train": train, "test": test})
        found.setdefault("mgsm:lm-eval-native-cot 0", []).extend(generated(lm, task, 0))
    found["versions"] = {p: importlib.metadata.version(p) for p in ("lm_eval", "transformers", "torch", "tokenizers")}
    write_json(HERE / "expected" / "benchmarks.json", found)


if __name__ == "__main__":
    main()
