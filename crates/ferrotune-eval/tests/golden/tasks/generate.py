"""Golden prompts and verdicts of benchmarks, from lm-evaluation-harness' own task definitions.

The documents are synthetic and written here, in the schemas of the published files: nothing of a benchmark is copied.
lm-evaluation-harness' task files, samplers, filters and metrics turn them into prompts and verdicts. Run as

    PYTHONPATH=<folder of lm_eval> python generate.py <folder of simple-evals>

with lm-eval 0.4.13 (installed without dependencies), datasets, numpy, pyarrow and jinja2, and with a checkout of
openai/simple-evals at ee3b0318 (2025-07-09), of which only the constants that hold prompts are read. Written beside this
file:

- data/: the synthetic files,
- prompts.json: for each task the contexts, and the continuations or the stops,
- verdicts.json: for each task what scripted responses or log-likelihoods score,
- versions.json.
"""

import ast
import copy
import csv
import hashlib
import importlib.metadata
import json
import pathlib
import random
import shutil
import sys
import types

import datasets
import lm_eval
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

HERE = pathlib.Path(__file__).parent
DATA = HERE / "data"
TASKS = pathlib.Path(lm_eval.__file__).parent / "tasks"
SUBJECTS = ["abstract_algebra", "anatomy", "high_school_us_history", "professional_law"]
LETTERS = "ABCD"


# --- synthetic documents -------------------------------------------------------------------------------------------


def mmlu_rows(subject, split, count):
    topic = subject.replace("_", " ")
    odd = ['a "quoted" word', "two\nlines", "a, comma", "naïve café", " a space before", "x" * 3]
    rows = []
    for i in range(count):
        n = i + len(subject) + len(split)
        question = f"In {topic}, which number follows {n}, given {odd[n % len(odd)]}?"
        if n % 3 == 0:
            question = "  " + question + " \n"
        choices = [str(n + 1), f"{n} or {odd[(n + 1) % len(odd)]}", f"Not {n}", "None of these"]
        turn = n % 4
        rows.append({
            "question": question, "subject": subject, "choices": choices[turn:] + choices[:turn],
            "answer": (4 - turn) % 4,
        })
    return rows


def mmlu():
    splits = {"dev": 5, "val": 2, "test": 3}
    rows = {split: [row for s in SUBJECTS for row in mmlu_rows(s, split, n)] for split, n in splits.items()}
    for split in splits:
        folder = DATA / "mmlu" / split
        folder.mkdir(parents=True)
        for subject in SUBJECTS:
            with open(folder / f"{subject}_{split}.csv", "w", newline="", encoding="utf-8") as file:
                for row in rows[split]:
                    if row["subject"] == subject:
                        csv.writer(file).writerow([row["question"], *row["choices"], LETTERS[row["answer"]]])
    folder = DATA / "mmlu-hub" / "all"
    folder.mkdir(parents=True)
    names = {"dev": "dev", "val": "validation", "test": "test"}
    for split, name in names.items():
        table = pa.Table.from_pylist(rows[split], schema=pa.schema([
            ("question", pa.string()), ("subject", pa.string()), ("choices", pa.list_(pa.string())),
            ("answer", pa.int64()),
        ]))
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet")
    with open(DATA / "mmlu-simple-evals.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "Question", "A", "B", "C", "D", "Answer", "Subject"])
        for i, row in enumerate(rows["test"]):
            writer.writerow([i, row["question"], *row["choices"], LETTERS[row["answer"]], row["subject"]])
    return rows


def gpqa():
    rows = []
    for i in range(9):
        rows.append({
            "Record ID": f"rec{i:03}", "Question": f"What is the mass of particle {i}?\nGive it in units of {i + 2}.",
            "Correct Answer": f" {i * 3} units" + ("  exactly" if i % 2 else ""),
            "Incorrect Answer 1": f"{i * 3 + 1} units [title] of {i}", "Incorrect Answer 2": f"{i * 3 + 2}\nunits",
            "Incorrect Answer 3": f"{i} units" if i else "none",
            "Explanation": "by counting", "Subdomain": "Particles", "High-level domain": ["Physics", "Biology"][i % 2],
        })
    with open(DATA / "gpqa_synthetic.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def math():
    golds = {
        "algebra": [r"\frac{1}{2}", "1,000", "x=3"], "geometry": [r"5\text{ cm}", r"30^\circ"],
        "prealgebra": ["0.5", "50\\%"],
    }
    rows = {"train": [], "test": []}
    for split in rows:
        for subject, answers in golds.items():
            folder = DATA / "math" / split / subject
            folder.mkdir(parents=True)
            for i, gold in enumerate(answers):
                number = [2, 10, 1][i]
                row = {
                    "problem": f"Find ${subject[:3]}_{number}$ of {split}.\nIt is ${gold}$ or not.",
                    "level": f"Level {i + 1}", "type": subject.title(),
                    "solution": f"Look: $a=\\boxed{{7}}$. In the end it is $\\boxed{{{gold}}}$.",
                }
                (folder / f"{number}.json").write_text(json.dumps(row, indent=4, ensure_ascii=False))
        for file in sorted((DATA / "math" / split).glob("*/*.json"), key=lambda f: (f.parent.name, int(f.stem))):
            rows[split].append(json.loads(file.read_text()))
    return rows


def gsm8k():
    def row(split, i):
        return {
            "question": f"{split}: Ann has {i} apples and buys {i + 1} more. How many has she?",
            "answer": f"Ann has {i}+{i + 1} = <<{i}+{i + 1}={2 * i + 1}>>{2 * i + 1} apples.\n#### {2 * i + 1:,}",
        }
    rows = {"train": [row("train", i) for i in range(12)], "test": [row("test", 700 * i) for i in range(4)]}
    folder = DATA / "gsm8k"
    folder.mkdir(parents=True)
    for split, lines in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return rows


def gsm8k_cot():
    # The reference's eight examples are text of a paper; ours have the same form.
    rows = [{
        "question": f"Bo has {i} pens and loses {i // 2}. How many are left?",
        "target": f"Bo had {i} pens. {i} - {i // 2} = {i - i // 2}. The answer is {i - i // 2}.",
    } for i in range(9)]
    (DATA / "gsm8k" / "cot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def human_eval():
    rows = [{
        "task_id": f"T/{i}", "entry_point": f"add_{i}",
        "prompt": f'from math import prod\n\n\ndef add_{i}(x):\n    \"\"\" The sum of x and {i}.\n    >>> add_{i}(1)\n    {i + 1}\n    \"\"\"\n',
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(2) == {i + 2}\n",
    } for i in range(3)]
    (DATA / "HumanEval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def mgsm():
    from lm_eval.tasks.mgsm.utils import LANGUAGES
    rows = {}
    folder = DATA / "mgsm"
    folder.mkdir(parents=True)
    for code, words in sorted(LANGUAGES.items()):
        test = [{"question": f"[{code}] 3 + {i}?", "answer": None, "answer_number": 1000 * i + 3} for i in range(3)]
        lines = [f"{row['question']}\t{row['answer_number']:,}\n" for row in test]
        (folder / f"mgsm_{code}.tsv").write_text("".join(lines), encoding="utf-8")
        train = [{
            "question": f"{words['QUESTION']} [{code}] 1 + {i}?", "answer": f"{words['ANSWER']} 1 + {i} = {i + 1}.",
            "answer_number": i + 1,
        } for i in range(8)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in train)
        (folder / f"mgsm_{code}_train.jsonl").write_text(text, encoding="utf-8")
        rows[code] = {"train": train, "test": test}
    return rows


# --- lm-evaluation-harness over them -------------------------------------------------------------------------------


def opened(file, splits, samples=None):
    """A task of the harness over given rows instead of a download, with given samples in place of those of its file."""
    config = load_yaml(TASKS / file, resolve_func=True)
    for key in ("tag", "group", "task_alias"):
        config.pop(key, None)
    if samples is not None:
        config["fewshot_config"] = copy.deepcopy(config["fewshot_config"]) | {"samples": samples}
    random.seed(0)
    processed_once(config)
    config["custom_dataset"] = lambda **_: datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    task = ConfigurableTask(config=config)
    task.set_fewshot_seed(1234)
    return task


def processed_once(config):
    """Processes each split once, as the cache of a downloaded data set does.

    gpqa_*_n_shot has a generator of its own, whose state defeats that cache: every pass over the documents shuffles the
    choices anew, so that its prompts and its keys come from different passes. The first pass is taken here.
    """
    process = config.get("process_docs")
    if process is None:
        return
    if "rng" in process.__globals__:
        process.__globals__["rng"].seed(42)
    first = []

    def once(split):
        if not first:
            first.append((split._fingerprint, process(split)))
        fingerprint, documents = first[0]
        return documents if fingerprint == split._fingerprint else process(split)

    config["process_docs"] = once


def prompts(task, shots):
    found = []
    for doc in task.eval_docs:
        context = task.fewshot_context(doc, shots, gen_prefix=task.doc_to_prefix(doc))
        requests = task.construct_requests(doc, context)
        if isinstance(requests, list):
            found.append({"context": context, "continuations": [request.args[1] for request in requests]})
        else:
            found.append({"context": context, "until": requests.args[1]["until"]})
    return found


def verdicts(task, responses):
    """The scores of responses to the first document and all others in turn, by filter."""
    docs = list(task.eval_docs)
    found = []
    for i, response in enumerate(responses):
        doc = docs[i % len(docs)]
        instance = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0)
        instance.resps = [response]
        task._instances = [instance]
        scores = {}
        if task._filters:
            task.apply_filters()
            for name, filtered in instance.filtered_resps.items():
                (score,) = task.process_results(doc, [filtered]).values()
                scores[name] = {"filtered": filtered, "score": float(score)}
        found.append({"document": i % len(docs), "response": response, **scores})
    return found


def choices(task, seed):
    generator = np.random.default_rng(seed)
    found = []
    for doc in task.eval_docs:
        size = len(task.doc_to_choice(doc))
        lls = [round(-float(x), 3) for x in generator.uniform(0, 20, size)]
        scores = task.process_results(doc, [(ll, False) for ll in lls])
        found.append({"log_likelihoods": lls, **{name: float(score) for name, score in scores.items()}})
    return found


# --- simple-evals over them ----------------------------------------------------------------------------------------


def constant(folder, file, name):
    """A constant of a module that is not imported, since its imports need what prompts do not."""
    for node in ast.parse((pathlib.Path(folder) / file).read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return eval(compile(ast.Expression(node.value), file, "eval"))
    raise KeyError(name)


def simple_evals(folder, mmlu_rows, gpqa_rows, math_rows, mgsm_rows):
    choice = constant(folder, "common.py", "QUERY_TEMPLATE_MULTICHOICE")
    problem = constant(folder, "math_eval.py", "QUERY_TEMPLATE")
    instructions = constant(folder, "mgsm_eval.py", "LANG_TO_INSTRUCTIONS")

    def question(text, choices):
        return {"context": choice.format(Question=text, **dict(zip(LETTERS, choices))), "until": []}

    generator = random.Random(0)
    permuted = []
    for row in gpqa_rows * 4:
        answers = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
        permuted.append(question(row["Question"], [answers[i] for i in generator.sample(range(4), 4)]))
    return {
        "mmlu:simple-evals 0": [question(row["question"], row["choices"]) for row in mmlu_rows["test"]],
        "gpqa:simple-evals 0": permuted,
        "math:simple-evals 0": [
            {"context": problem.format(Question=row["problem"]), "until": []} for row in math_rows["test"]],
        "mgsm:simple-evals 0": [
            {"context": instructions[code].format(input=row["question"]), "until": []}
            for code in mgsm_rows for row in mgsm_rows[code]["test"]],
    }


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir()
    asked, judged = {}, {}

    rows = mmlu_all = mmlu()
    for name, folder, shots in [
        ("mmlu:lm-eval", "default", (0, 5)), ("mmlu:lm-eval-continuation", "continuation", (0, 2)),
        ("mmlu:lm-eval-generative", "generative", (0, 1)), ("mmlu:lm-eval-flan-cot-zeroshot", "flan_cot_zeroshot", (0,)),
    ]:
        for count in shots:
            asked[f"{name} {count}"], judged[name] = [], []
            for subject in SUBJECTS:
                of = {s: [row for row in rows[s] if row["subject"] == subject] for s in rows}
                splits = {"dev": of["dev"], "validation": of["val"], "test": of["test"]}
                task = opened(f"mmlu/{folder}/mmlu_{subject}.yaml", splits)
                asked[f"{name} {count}"] += prompts(task, count)
                if task.OUTPUT_TYPE == "multiple_choice":
                    judged[name] += choices(task, len(subject))
                else:
                    judged[name].append(verdicts(task, [
                        "A", " b.\nC", "(C)", "\nA", "The answer is (A).", "So the answer is (D)\nor (B).",
                        "The final answer: (B)!", "Answer: C", "no idea", "not 19", "None of these", "The answer is \n",
                        "The answer is (C) (D). The answer is (A).", "(A) and then (Q)", "x: B y: C",
                    ]))

    rows = gpqa_all = gpqa()
    splits = {"train": rows}
    for name, file, shots in [
        ("lm-eval-zeroshot", "zeroshot/gpqa_main_zeroshot.yaml", 0), ("lm-eval-n-shot", "n_shot/gpqa_main_n_shot.yaml", 3),
        ("lm-eval-cot-zeroshot", "cot_zeroshot/gpqa_main_cot_zeroshot.yaml", 0),
        ("lm-eval-cot-n-shot", "cot_n_shot/gpqa_main_cot_n_shot.yaml", 2),
        ("lm-eval-generative", "generative/gpqa_main_generative_n_shot.yaml", 2),
    ]:
        task = opened(f"gpqa/{file}", splits)
        asked[f"gpqa:{name} {shots}"] = prompts(task, shots)
        if task.OUTPUT_TYPE == "multiple_choice":
            judged[f"gpqa:{name}"] = choices(task, 5)
        else:
            judged[f"gpqa:{name}"] = verdicts(task, [
                "The answer is (A).", "the answer is (B)", "I think 3 units is right", "(A) or (C)", "Answer: D", "none",
                "The answer is C", "The answer is", "The answer is (B) because.\nThe answer is (C).", "12 units",
                "0 Units!", "The answer is (D) ",
            ])

    rows = math_all = math()
    task = opened("hendrycks_math/hendrycks_math_algebra.yaml", rows)
    asked["math:lm-eval-hendrycks 0"], asked["math:lm-eval-hendrycks 2"] = prompts(task, 0), prompts(task, 2)
    judged["math:lm-eval-hendrycks"] = []
    docs = list(task.eval_docs)
    for i, response in enumerate([
        r"$\frac12$", "1000", "3", "so $x=3$.", "$2+2$ = $4$", r"$5$", "5 cm", "30", r"$30^{\circ}$", "1/2", ".5", "50%", "50",
        "", "$", "$$", r"$1,000$", r"\frac{2}{4}", r"$\dfrac{1}{2}$",
    ] * 2):
        place = i * 3 % len(docs)
        score = task.process_results(docs[place], [response])
        judged["math:lm-eval-hendrycks"].append(
            {"document": place, "response": response, "none": {"score": float(score["exact_match"])}})

    rows = gsm8k()
    for name, file, shots, samples in [
        ("lm-eval", "gsm8k.yaml", 5, None), ("lm-eval-cot-zeroshot", "gsm8k-cot-zeroshot.yaml", 0, None),
        ("lm-eval-cot", "gsm8k-cot.yaml", 8, gsm8k_cot()),
    ]:
        task = opened(f"gsm8k/{file}", rows, samples)
        asked[f"gsm8k:{name} {shots}"] = prompts(task, shots)
        judged[f"gsm8k:{name}"] = verdicts(task, [
            "1+0\n#### 1", "#### 1,401", "#### 2801.", "#### $4,201", "####1", "1401", "It is 2,801.", "The answer is 4201.",
            "The answer is 1", "The answer is 1,401, so 5", "#### -1", "none", "$1", "1401.00", "#### 2801 #### 5", "4201-",
            "The answer is 1.", "The answer is $1401.", "#### 2801,", "4,201 apples of 9",
        ])

    rows = mgsm_all = mgsm()
    for name, folder, file, shots in [
        ("lm-eval-direct", "direct", "mgsm_direct", (0, 8)), ("lm-eval-native-cot", "native_cot", "mgsm_native_cot", (0, 8)),
        ("lm-eval-en-cot", "en_cot", "mgsm_en_cot", (0, 3)),
    ]:
        for count in shots:
            asked[f"mgsm:{name} {count}"], judged[f"mgsm:{name}"] = [], []
            for code in rows:
                task = opened(f"mgsm/{folder}/{file}_{code}.yaml", rows[code])
                asked[f"mgsm:{name} {count}"] += prompts(task, count)
                judged[f"mgsm:{name}"].append(verdicts(task, [
                    " 3 ", "1,003", "2003.", "The answer is 3.", "Die Antwort lautet 1003.", "La respuesta es 2003",
                    "La réponse est 3", "答えは1003です。", "答案是 2003。", "Jibu ni 3", "Ответ — 1003.", "సమాధానం 2003", "คำตอบคือ 3",
                    "答えは1003", "答案是 2003", "-3", "$1,003.00 then 3", "none",
                ]))

    # Its functions score with a metric of the hub, which prompts do not need.
    sys.modules["evaluate"] = types.SimpleNamespace(load=lambda name: types.SimpleNamespace(compute=lambda **_: None))
    rows = human_eval()
    for name, file in [
        ("lm-eval", "humaneval"), ("lm-eval-64", "humaneval_64"), ("lm-eval-instruct", "humaneval_instruct"),
        ("lm-eval-64-instruct", "humaneval_64_instruct"),
    ]:
        asked[f"humaneval:{name} 0"] = prompts(opened(f"humaneval/{file}.yaml", {"test": rows}), 0)

    asked |= simple_evals(sys.argv[1], mmlu_all, gpqa_all, math_all, mgsm_all)

    def write(name, value):
        (HERE / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")

    # Long contexts repeat the same examples; what is compared is the whole text, by its digest, and its end in words.
    for documents in asked.values():
        for document in documents:
            context = document["context"]
            if len(context) > 700:
                document["sha256"] = hashlib.sha256(context.encode()).hexdigest()
                document["context"] = context[-200:]
    write("prompts.json", asked)
    write("verdicts.json", judged)
    write("versions.json", {p: importlib.metadata.version(p) for p in ("lm_eval", "datasets", "numpy", "pyarrow", "jinja2")})


if __name__ == "__main__":
    main()
