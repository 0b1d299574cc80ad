"""Writes ragas_0_1_9.json or ragas_0_4_3.json: what ragas makes of scripted replies. See README.md for versions.

usage: generate_ragas.py        with the Python of an environment that has the version of ragas in question
"""

import asyncio
import json
import math
import pathlib
import random
import typing

import ragas
from langchain_core.outputs import Generation, LLMResult
from ragas.llms.base import BaseRagasLLM
from ragas.run_config import RunConfig

HERE = pathlib.Path(__file__).parent
VERSION = ragas.__version__
# Words that tell the scripted judge which text a question is about; the classification names neither.
ANSWER, TRUTH = "ANSWERTEXT.", "TRUTHTEXT."


class Script(BaseRagasLLM):
    """Gives each stage its replies in order, the last one again and again, and counts."""

    def __init__(self, stages):
        self.run_config = RunConfig()
        self.multiple_completion_supported = False
        self.cache = None
        self.stages, self.asked = stages, {stage: 0 for stage in stages}

    def reply(self, prompt):
        text = prompt.to_string()
        stage = "answer" if ANSWER in text else "truth" if TRUTH in text else "classes"
        replies = self.stages[stage]
        reply = replies[min(self.asked[stage], len(replies) - 1)]
        self.asked[stage] += 1
        return LLMResult(generations=[[Generation(text=reply)]])

    def generate_text(self, prompt, n=1, temperature=None, stop=None, callbacks=None):
        return self.reply(prompt)

    async def agenerate_text(self, prompt, n=1, temperature=None, stop=None, callbacks=None):
        return self.reply(prompt)

    def is_finished(self, response):
        return True


def statements(rng, n):
    words = [rng.choice(["Paris", "lies", "in", "a \"quoted\"", "{brace}", "[1]", "é", "back\\slash", "😀"]) for _ in range(n)]
    if VERSION.startswith("0.1"):
        half = rng.randint(0, n)
        groups = [words[:half], words[half:]] if n else []
        return [{"sentence_index": i, "simpler_statements": g} for i, g in enumerate(groups)]
    return {"statements": words}


def classes(rng):
    entry = lambda: {"statement": rng.choice(["s", "{", "}", "a]b", "x\"y", "tab\there"]), "reason": "because"}
    return {name: [entry() for _ in range(rng.randint(0, 4))] for name in ["TP", "FP", "FN"]}


def mutated(rng, value):
    """A reply that holds the value, or nearly."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, 2]))
    kind = rng.randrange(26)
    if kind == 0:
        return text[: rng.randrange(len(text))]
    if kind == 1:
        return f"Here you are:\n```json\n{text}\n```"
    if kind == 2:
        return f"```\n{text}\n```\nI hope this helps."
    if kind == 3:
        return f"Sure! {text}"
    if kind == 4:
        return f"{text} and {text}"
    if kind == 5:
        return text.replace('"', "'")
    if kind == 6:
        return "I cannot help with that."
    if kind == 7:
        return text.replace("TP", "tp").replace("statements", "facts")
    if kind == 8:
        return text.replace("}", ",}", 1)
    if kind == 9:
        return text.replace(" ", "\n", 1).replace("because", "be\ncause\x01")
    if kind == 10:
        return f"```json\n{text[: rng.randrange(len(text))]}"
    if kind == 11:
        return "[1] as he said: " + text
    if kind == 12:
        return text + "]"
    if kind == 13:
        return json.dumps({"wrapped": value})
    if kind == 14:
        return json.dumps([value])
    if kind == 15:
        return json.dumps({"__root__": value})
    if kind == 16:
        return text.replace("because", "\\ud800 lone", 1).replace("lies", "\\ud83d\\ude00")
    if kind == 17:
        return text.replace("because", "cut \\", 1) [: text.find("because") + 5] if "because" in text else text
    if kind == 18:
        return text.replace('"because"', rng.choice(["NaN", "null", "3", "true", "-Infinity", "{}"]))
    if kind == 19:
        return text.replace("[", "{", 1)
    if kind == 20:
        return f"```json\n{text}\n```\n```json\n{{}}\n```"
    if kind == 21:
        return ""
    if kind == 22:
        return text.replace('"sentence_index": 0', '"sentence_index": "0"').replace('"Paris"', rng.choice(["7", "null", "false"]))
    if kind == 23:
        return text.replace('{"statement": "s", "reason": "because"}', rng.choice(['"s"', "[]", '""', "7"]))
    if kind == 24:
        return f"\u00a0`{text}`\u2003"
    return text


def repair(rng, value):
    """A reply to a request for a repair; from 0.4 on it is the repaired text as a string of JSON."""
    if VERSION.startswith("0.1"):
        return mutated(rng, value)
    inner = json.dumps(value) if rng.random() < 0.7 else mutated(rng, value)
    return mutated(rng, {"text": inner}) if rng.random() < 0.6 else json.dumps({"text": inner})


def stage(rng, value, good):
    if rng.random() < good:
        return [json.dumps(value)]
    return [mutated(rng, value)] + [repair(rng, value) for _ in range(3)]


def scored(stages):
    """F (the similarity weighs nothing), or None for NaN, and how often each stage was asked."""
    script = Script(stages)
    if VERSION.startswith("0.1"):
        from ragas.metrics import AnswerCorrectness

        metric = AnswerCorrectness(weights=[1, 0], llm=script)
        metric.init(RunConfig())
        row = {"question": "Q?", "answer": ANSWER, "ground_truth": TRUTH}
        score = asyncio.run(metric._ascore(row, callbacks=[], is_async=True))
    else:
        from ragas.exceptions import RagasException
        from ragas.metrics._answer_correctness import AnswerCorrectness
        from langchain_core.exceptions import OutputParserException

        metric = AnswerCorrectness(weights=[1, 0], llm=script)
        metric.init(RunConfig())
        row = {"user_input": "Q?", "response": ANSWER, "reference": TRUTH}
        try:
            score = asyncio.run(metric._ascore(row, callbacks=[]))
        except (RagasException, OutputParserException):
            score = math.nan  # what the executor makes of an exception
    return (None if math.isnan(score) else score), script.asked


def main():
    rng = random.Random(20261122)
    cases = []
    for i in range(900):
        sizes = [rng.randint(0, 3), rng.randint(0, 3)]
        values = [statements(rng, sizes[0]), statements(rng, sizes[1]), classes(rng)]
        # Most cases disturb one stage, some all.
        good = [1.0, 1.0, 0.0] if i % 3 == 0 else [0.3, 1.0, 1.0] if i % 3 == 1 else [0.6, 0.6, 0.5]
        stages = {name: stage(rng, v, g) for name, v, g in zip(["answer", "truth", "classes"], values, good)}
        score, asked = scored(stages)
        # Only the replies that were given; the last one may have been given several times.
        given = {name: [replies[min(k, len(replies) - 1)] for k in range(asked[name])] for name, replies in stages.items()}
        cases.append({"replies": given, "score": score})
    name = "ragas_0_1_9.json" if VERSION.startswith("0.1") else "ragas_0_4_3.json"
    (HERE / name).write_text(json.dumps({"ragas": VERSION, "cases": cases}, ensure_ascii=True) + "\n")
    print(name, len(cases), sum(case["score"] is None for case in cases), "NaN")


main()
