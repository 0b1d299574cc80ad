"""Writes sentences.json: what ragas 0.1.9 keeps of texts, that is the sentences of pysbd that end in a full stop.

usage: generate_sentences.py [alpaca-999.json]        with the Python of an environment that has pysbd 0.3.4

Of the 999 outputs it holds a digest each, so that the data are not here.
"""

import hashlib
import json
import pathlib
import sys

import pysbd

HERE = pathlib.Path(__file__).parent
SEGMENTER = pysbd.Segmenter(language="en", clean=False)

TEXTS = [
    "Paris is nice! It is big. No period",
    'He said "Hi." Then left.',
    "Dr. Smith went to Washington. He left at 5 p.m. on Monday.",
    "Mr. and Mrs. Jones met Prof. Lee. They talked.",
    "It costs 3.5 dollars. That is 2.50 more than before.",
    "We meet at 10 a.m. tomorrow. Bring the report.",
    "She lives in the U.S. and works for a bank. He does not.",
    "Use e.g. water. Or i.e. the other thing.",
    "Apples, pears, etc. are fruit. Carrots are not.",
    "1. Eat well.\n2. Sleep well.\n3. Walk a lot.",
    "First line.\nSecond line without an end\nThird line.",
    "Is it true? Yes. Is it? No!",
    "What?! Really... I do not know. Well.",
    "He works at Acme Inc. and she at Beta Corp. in town. Both are happy.",
    "The file is data.json. Open it at example.com. Then read.",
    "J. R. Miller wrote it. A. Smith read it.",
    "It was late (very late.) and cold. They slept.",
    "They slept (it was late). Then they woke.",
    'She asked, "Why?" and left. He stayed.',
    "The end is near. \u201cIt is over.\u201d Nobody spoke.",
    "See fig. 3 and vol. 2. The rest is on pp. 10 to 12.",
    "One sentence only",
    "",
    "Trailing spaces stay.   Here too.  ",
    "Temperatures rose to 30 degrees. In Jan. it snowed. In Feb. too.",
    "St. Peter lived in St. Petersburg. So they say.",
    "Water boils at 100 C. Ice melts at 0 C. Both matter.",
    "No. 5 is alive. No. That is wrong.",
    "I am tired. So am I. It is I. You know it.",
    "The answer is: 42. Why? Because. That is all.",
    "- One item.\n- Another item.\n* A third.",
    "a. First. b. Second. c. Third.",
    "He earned a Ph.D. in physics. She has an M.A. from there.",
    "Wait... what? OK. Fine.",
]


def kept(text):
    return [sentence for sentence in SEGMENTER.segment(text) if sentence.strip().endswith(".")]


def main():
    golden = {"own": [{"text": text, "kept": kept(text)} for text in TEXTS]}
    if len(sys.argv) > 1:
        outputs = [record["output"] for record in json.loads(pathlib.Path(sys.argv[1]).read_text())]
        golden["alpaca"] = [hashlib.sha256("\x1e".join(kept(text)).encode()).hexdigest()[:16] for text in outputs]
    (HERE / "sentences.json").write_text(json.dumps(golden) + "\n")
    if len(sys.argv) > 2:
        pathlib.Path(sys.argv[2]).write_text(json.dumps([[text, kept(text)] for text in outputs]))


main()
