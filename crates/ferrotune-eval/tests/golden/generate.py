"""Writes the golden files beside it with the reference packages. See README.md for versions and the command.

usage: generate.py --squad-v1 compute_score.py --squad-v2 squad_metrics.py --simple-evals common.py --mgsm mgsm_eval.py
    --math math_equivalence.py [--alpaca alpaca-999.json --gsm8k gsm8k-test.jsonl --wordnet FOLDER]
"""

import argparse
import json
import math
import pathlib
import random
import re
import tempfile

import nltk
import numpy as np
import sacrebleu
import torch
from bert_score.utils import greedy_cos_idf
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.stem.porter import PorterStemmer
from nltk.translate import meteor_score
from rouge_score import rouge_scorer
from sacrebleu.metrics.bleu import _get_tokenizer
from sacrebleu.significance import PairedTest

HERE = pathlib.Path(__file__).parent

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A cat sat on the mat, and the dog looked at it with 3 eyes!",
    "Prices rose by 3.5% in 2024-25, from $1,000.50 to $1,035.52 (see table 7).",
    "She said: \"I'm not going.\" Then she went anyway...",
    "naïve café – “quotes” and ‘single ones’, résumé; Ångström & straße.",
    "日本語のテキストは、空白がありません。数字は１２３と123です。",
    "Русский текст: «Война и мир» — 4 тома, 1,225 страниц.",
    "العربية تُكتب من اليمين إلى اليسار، مثل ٣٤٥.",
    "हिन्दी में लिखा हुआ वाक्य। १२३ रुपये।",
    "emoji 😀👍🏽 family 👨‍👩‍👧 and flags 🇺🇦🇵🇱, done ✅",
    "K is the Kelvin sign, İstanbul has a dotted I, ΟΔΟΣ ends in sigma, ﬁne ligature",
    "tabs\tand\u00a0no-break\u2003spaces\u2028separators\u001cfields\u0085next",
    "<skipped> one &amp; two &lt;three&gt; &quot;four&quot; &apos;five&apos; hyphen-\nated\nlines",
    "1. First step: mix the flour.\n2. Second step: add 2 eggs.\n\n3. Third step: wait 10 minutes.",
    "def add(a, b):\n    return a + b  # x_y-z/2 == 0.5",
    "e\u0301 combining, \u0939\u093f\u0928 marks, a\u0308 the\u0301 an",
    "......,,,,;;--!!??/\\|@#^*()[]{}<>~`'\"",
    "",
    " ",
    "a",
    "yes",
    "The the THE a an A",
    "U.S.A. and e.g. 5.5.5 and 1,2,3 and -7 and 2-3-4",
    "Running runners ran quickly; flying flies died while the skies were dying.",
    "relational conditional vietnamization hopefulness generalizations oscillators",
    "x² + y³ = ½ Ⅷ ① ٣ ೫ 〇",
    "I don't think it's a well-known state-of-the-art method, isn't it?",
    "one two three four five six seven eight nine ten one two three four five",
]


def variations(rng):
    """(hypothesis, references): words dropped, swapped, doubled and replaced; one to three references."""
    pairs = []
    for i, sentence in enumerate(SENTENCES):
        words = sentence.split(" ")
        dropped = " ".join(w for j, w in enumerate(words) if j % 7 != 3)
        shuffled = words[:]
        rng.shuffle(shuffled)
        doubled = " ".join(w if j % 5 else w + " " + w for j, w in enumerate(words))
        other = SENTENCES[(i + 5) % len(SENTENCES)]
        pairs.append((sentence, [sentence]))
        pairs.append((dropped, [sentence]))
        pairs.append((" ".join(shuffled), [sentence, doubled]))
        pairs.append((doubled.upper(), [sentence, other, dropped]))
        pairs.append((other, [sentence]))
    return pairs


def fuzz(rng, n, length):
    alphabet = list("aAbB019.,-–'\"&;<>()/%$€£@_ \n\t") + [
        "&quot;", "&amp;", "&lt;", "&gt;", "<skipped>", "-\n", "é", "日", "。", "、", "“", "”", "١", "½", "²", "😀",
        "\u00a0", "\u0301", "\u001c", "—", "€", "K", "İ", "Σ", "σ", "ß",
    ]
    return ["".join(rng.choice(alphabet) for _ in range(rng.randint(0, length))) for _ in range(n)]


def bleu_golden(rng):
    tokenized = {}
    texts = SENTENCES + fuzz(rng, 150, 40)
    for name in ["13a", "intl", "char", "none"]:
        tokenizer = _get_tokenizer(name)()
        tokenized[name] = [tokenizer(t.rstrip()).split() for t in texts]
    pairs = variations(rng)
    single = [(h, r[:1]) for h, r in pairs]
    corpora = []
    for refs in ["one", "all"]:
        data = single if refs == "one" else pairs
        width = max(len(r) for _, r in data)
        streams = [[r[k] if k < len(r) else None for _, r in data] for k in range(width)]
        for kwargs in [
            {},
            {"tokenize": "intl"},
            {"tokenize": "char"},
            {"tokenize": "none"},
            {"lowercase": True},
            {"smooth_method": "floor"},
            {"smooth_method": "floor", "smooth_value": 0.01},
            {"smooth_method": "add-k"},
            {"smooth_method": "add-k", "smooth_value": 2},
            {"smooth_method": "none"},
            {"max_ngram_order": 2},
            {"effective_order": True},
        ]:
            metric = sacrebleu.BLEU(**kwargs)
            s = metric.corpus_score([h for h, _ in data], streams)
            sentence = sacrebleu.BLEU(**{**kwargs, "effective_order": True})
            corpora.append({
                "references": refs, "options": kwargs, "score": s.score, "bp": s.bp, "sys_len": s.sys_len,
                "ref_len": s.ref_len, "precisions": s.precisions, "signature": str(metric.get_signature()),
                "sentences": [sentence.sentence_score(h, r).score for h, r in data],
            })
    return {"texts": texts, "tokenized": tokenized, "pairs": pairs, "corpora": corpora}


def chrf_golden(rng):
    pairs = variations(rng)
    width = max(len(r) for _, r in pairs)
    streams = [[r[k] if k < len(r) else None for _, r in pairs] for k in range(width)]
    cases = []
    for kwargs in [
        {}, {"word_order": 1}, {"word_order": 2}, {"lowercase": True}, {"whitespace": True}, {"eps_smoothing": True},
        {"beta": 1}, {"beta": 3, "char_order": 4, "word_order": 2},
    ]:
        metric = sacrebleu.CHRF(**kwargs)
        s = metric.corpus_score([h for h, _ in pairs], streams)
        cases.append({
            "options": kwargs, "score": s.score, "signature": str(metric.get_signature()), "name": s.name,
            "sentences": [metric.sentence_score(h, r).score for h, r in pairs],
        })
    return {"pairs": pairs, "cases": cases}


def rouge_golden(rng):
    pairs = variations(rng)
    kinds = [f"rouge{n}" for n in range(1, 10)] + ["rougeL", "rougeLsum"]
    out = {"pairs": pairs, "kinds": kinds}
    for name, stem in [("plain", False), ("stemmed", True)]:
        scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=stem)
        out[name] = []
        for hypothesis, references in pairs:
            scores = scorer.score_multi(references, hypothesis)
            out[name].append([[scores[k].precision, scores[k].recall, scores[k].fmeasure] for k in kinds])
    return out


def porter_golden():
    roots = (
        "relat condit valenc digit confirm radic different vile analog vietnam predic oper feudal decis hope callous "
        "formal sensitiv sensibil triplic form electr good reviv allow infer airlin gyroscop adjust defens irrit "
        "replac depend adopt homolog commun activ angular effect bowdler rate ceas control roll hop tann fall hiss fizz "
        "fail fil trouble siz conflat plaster bl motor s happ sk enjo sp b sa t d l geo theo archaeo aw y yy eyy tr "
        "syzyg 3d x1 caf\u00e9 \u00e9\u00e9 na\u00efv \u65e5 \u03c3 foo* a e i o u ae ee"
    ).split()
    endings = (
        "_ s es ies ied sses ss eed ed ing y ly ational tional enci anci izer bli abli alli entli eli ousli ization "
        "ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness "
        "al ance ence er ic able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e l ll ding dded *ded "
        "ying ings edly ness'"
    ).split()
    words = [root + (ending if ending != "_" else "") for root in roots for ending in endings]
    words += (
        "skies sky dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed "
        "dies died tied flies spied enjoy spy by say archaeology buses aed eed ing ings ied ies s ss agreed controll"
    ).split()
    words = list(dict.fromkeys(words))
    stemmer = PorterStemmer()
    return {"words": words, "stems": [stemmer.stem(w) for w in words]}


def load_functions(path, first, last_before):
    """The functions of a reference file, without the imports that it cannot satisfy alone."""
    import collections
    import string

    source = pathlib.Path(path).read_text()
    source = source[source.index(first):]
    if last_before:
        source = source[: source.index(last_before)]
    space = {"re": re, "string": string, "collections": collections, "Counter": collections.Counter}
    exec(source, space)
    return space


def squad_golden(rng, v1, v2):
    one = load_functions(v1, "def normalize_answer", "def metric_max_over_ground_truths")
    two = load_functions(v2, "def normalize_answer", "def get_raw_scores")
    texts = SENTENCES + fuzz(rng, 60, 25) + ["a an the", "The Cat!", "cat", "the_cat a_b", "an\u0301 a-the b", "thé the a1 a"]
    pairs = [(a, texts[(7 * i + 3) % len(texts)]) for i, a in enumerate(texts)] + [(h, r[0]) for h, r in variations(rng)]
    return {
        "texts": texts,
        "normalized": [two["normalize_answer"](t) for t in texts],
        "pairs": pairs,
        "exact": [two["compute_exact"](b, a) for a, b in pairs],
        "f1_v1": [float(one["f1_score"](a, b)) for a, b in pairs],
        "f1_v2": [float(two["compute_f1"](b, a)) for a, b in pairs],
    }


# A dictionary of our own in the format of WordNet's database files: part of speech, then one synset per line, its
# words in order. It has what the rules turn on: irregular forms, several parts of speech, spellings with capitals,
# words of several parts, markers after adjectives.
DICTIONARY = {
    "noun": [["car", "auto", "motor_car"], ["house", "home"], ["fox", "dodger"], ["leaf", "foliage"], ["axe", "ax"],
             ["axis"], ["man", "adult_male"], ["quick", "core"], ["run", "streak"], ["CE", "Common_Era"],
             ["die", "dice"], ["stopping", "stop", "halt"], ["guide", "template"], ["skies", "heaven"]],
    "verb": [["leave", "depart"], ["go", "move", "travel"], ["run", "jog"], ["stop", "halt", "block"],
             ["jump", "leap", "spring"], ["look", "watch"], ["drive", "motor"], ["rise", "go_up", "climb"]],
    "adj": [["quick", "fast", "speedy"], ["big", "large"], ["good", "fine(p)"], ["better"], ["lazy", "slow(a)"],
            ["well(ip)", "fit"], ["glad", "happy"]],
    "adv": [["quickly", "rapidly", "speedily"], ["well", "good"], ["anyway", "anyhow"]],
}
EXCEPTIONS = {
    "noun": ["axes ax axis", "men man", "leaves leaf", "dice die"],
    "verb": ["went go", "gone go", "ran run"],
    "adj": ["better good well", "best good"],
    "adv": ["best well"],
}
LEXNAMES = "".join(f"{i:02d}\tfile.{i}\t1\n" for i in range(45))


def write_dictionary(folder):
    folder.mkdir(parents=True, exist_ok=True)
    letters = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
    for part, synsets in DICTIONARY.items():
        data = "  1 A dictionary made for tests, in the format of wndb(5WN).\n"
        offsets = {}
        for words in synsets:
            at = len(data.encode())
            entry = " ".join(f"{word} 0" for word in words)
            data += f"{at:08d} 00 {letters[part]} {len(words):02x} {entry} 000 | made for tests  \n"
            for word in words:
                lemma = re.sub(r"\(.*\)$", "", word).lower()
                offsets.setdefault(lemma, []).append(at)
        (folder / f"data.{part}").write_text(data)
        index = "  1 A dictionary made for tests, in the format of wndb(5WN).\n"
        for lemma in sorted(offsets):
            at = offsets[lemma]
            places = " ".join(f"{offset:08d}" for offset in at)
            index += f"{lemma} {letters[part]} {len(at)} 1 @ {len(at)} 0 {places}  \n"
        (folder / f"index.{part}").write_text(index)
        (folder / f"{part}.exc").write_text("".join(line + "\n" for line in EXCEPTIONS[part]))


def open_dictionary(source):
    """nltk opens only what lies in its own data folder, and wants three files more than the rules need."""
    root = pathlib.Path(tempfile.mkdtemp())
    folder = root / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for name in ["data", "index"]:
        for part in DICTIONARY:
            (folder / f"{name}.{part}").write_bytes((source / f"{name}.{part}").read_bytes())
    for part in DICTIONARY:
        (folder / f"{part}.exc").write_bytes((source / f"{part}.exc").read_bytes())
    (folder / "lexnames").write_text(LEXNAMES)
    (folder / "index.sense").write_text("")
    (folder / "cntlist.rev").write_text("")
    nltk.data.path.insert(0, str(root))
    return WordNetCorpusReader(nltk.data.find("corpora/wordnet"), None)


METEOR_SENTENCES = [
    ("the car stopped", "the automobile stopped"),
    ("he drives a car to the big house", "she drove an auto to the large home"),
    ("the fox leaves quickly", "the dodger departs rapidly"),
    ("men went to the axes", "man go to the axis"),
    ("it was better in the year CE", "it was good in the year ce"),
    ("the lazy dog jumps over the fast fox", "the slow dog leaps over the quick dodger"),
    ("stop the stopping car halt", "halt the car stop stopping"),
    ("a a a b b", "b a a b a"),
    ("glad people run best", "happy people ran well"),
    ("Running runners ran to the motor_car", "run runner runs to the auto"),
    ("skies rise anyway", "the sky climbs anyhow"),
    ("", "a"), ("a", ""), ("a", "a"), ("one two", "three four"),
]


def meteor_golden(rng):
    write_dictionary(HERE / "wordnet")
    wordnet = open_dictionary(HERE / "wordnet")
    pairs = [(h, [r]) for r, h in METEOR_SENTENCES] + variations(rng)
    weights = [{}, {"alpha": 0.85, "beta": 2.0, "gamma": 0.2}]
    with_dictionary, without = [], []
    for kwargs in weights:
        score = lambda w: [
            meteor_score.meteor_score([r.split() for r in refs], h.split(), wordnet=w, **kwargs) for h, refs in pairs
        ]
        with_dictionary.append(score(wordnet))
        without.append(score(NoWordNet()))
    forms = "leaves leaf axes men man better best went gone ran dice cars house houses stopping stops quicker quickest".split()
    return {
        "pairs": pairs, "weights": weights, "with_dictionary": with_dictionary, "without": without,
        "forms": forms,
        "base_forms": {
            name: [wordnet._morphy(form, pos) for form in forms]
            for name, pos in [("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")]
        },
        "synonyms": [
            sorted({n for s in wordnet.synsets(form) for n in s.lemma_names() if "_" not in n}) for form in forms
        ],
    }


def significance_golden(rng):
    """sacrebleu's bootstrap and paired tests; the baseline drops words, the system drops fewer and swaps two."""
    references = [s for s in SENTENCES if s.strip()] * 3
    baseline, system = [], []
    for i, text in enumerate(references):
        words = text.split()
        baseline.append(" ".join(w for w in words if rng.random() > 0.3))
        other = [w for w in words if rng.random() > 0.25]
        if len(other) > 2 and i % 3 == 0:
            other[0], other[1] = other[1], other[0]
        system.append(" ".join(other))
    out = {"references": references, "baseline": baseline, "system": system, "cases": []}
    for metric, kwargs in [
        ("BLEU", {}), ("BLEU", {"smooth_method": "add-k"}), ("BLEU", {"smooth_method": "floor"}),
        ("CHRF", {}), ("CHRF", {"word_order": 2}), ("CHRF", {"eps_smoothing": True}),
    ]:
        make = lambda: getattr(sacrebleu, metric)(**kwargs)
        case = {"metric": metric, "options": kwargs}
        one = make().corpus_score(system, [references], n_bootstrap=1000)
        case["bootstrap"] = [float(one._mean), float(one._ci)]
        for test, samples in [("bs", 1000), ("ar", 2000)]:
            paired = PairedTest(
                [("baseline", baseline), ("system", system)], {"m": make()}, [references], test_type=test,
                n_samples=samples,
            )
            _, scores = paired()
            (name,) = [k for k in scores if k != "System"]
            result = scores[name][1]
            case[test] = {
                "baseline": float(scores[name][0].score), "system": float(result.score), "p": float(result.p_value),
                "mean": None if result.mean is None else float(result.mean),
                "ci": None if result.ci is None else float(result.ci),
            }
        out["cases"].append(case)
    generator = np.random.default_rng(12345)
    out["raw"] = [str(int(x)) for x in np.random.default_rng(12345).bit_generator.random_raw(8)]
    out["integers"] = generator.integers(0, 1000003, 50).tolist()
    out["booleans"] = np.random.default_rng(7).integers(2, size=(3, 30), dtype=bool).astype(int).flatten().tolist()
    out["large_seed"] = np.random.default_rng(2**40 + 5).integers(0, 10, 20).tolist()
    return out


def bert_score_golden():
    """Random vectors through bert-score's own matching, one pair at a time so that no padding takes part."""
    torch.manual_seed(0)
    texts = [[101, 7, 8, 9, 102], [101, 7, 102], [101, 102], [101, 9, 9, 8, 5, 4, 102], [101, 5, 6, 102]]
    vectors = [torch.randn(len(t), 4) for t in texts]
    marks = {101: 0.0, 102: 0.0}
    # Every text is the reference of as many pairs as there are texts.
    documents = len(texts) ** 2
    frequency = {}
    for t in texts:
        for i in set(t):
            frequency[i] = frequency.get(i, 0) + len(texts)
    inverse = {i: math.log((documents + 1) / (c + 1)) for i, c in frequency.items()}
    out = {"ids": texts, "vectors": [v.tolist() for v in vectors], "equal": [], "idf": []}
    for name, weight in [("equal", lambda i: marks.get(i, 1.0)), ("idf", lambda i: inverse[i])]:
        for h in range(len(texts)):
            for r in range(len(texts)):
                def prepared(k):
                    ids = texts[k]
                    return (vectors[k].clone().unsqueeze(0), torch.ones(1, len(ids)),
                            torch.tensor([[weight(i) for i in ids]]))
                scores = greedy_cos_idf(*prepared(r), *prepared(h))
                out[name].append([float(x) for x in scores])
    return out


RESPONSES = [
    "Answer: B", "answer : $C$", "**Answer:** D", "Answer: Apple", "Answer:\nB", "Answer: A ... Answer: C",
    "The answer is B", "Final Answer: (B)", "Antwort: C", "答案：B", "答え: Ｄ", "উত্তর: খ, উত্তর: ব", "الإجابة: ج",
    "Respuesta:  d", "Answer: $\\boxed{B}$", "Answer: \\text{C}", "$\\text{Answer: A}$", "Answer: \\(D\\)", "",
    "Answer:\u200b\u200b\u200b\u200b\u200b\u200bB", "Ànúgọ: A", "إجابة: د", "정답: C", "Àmọ̀nà : B", "Answer: {{A}}",
    "Answer:\tC and Antwort: D", "Antwort: D before Answer: C", "답: X, 답변: B",
]
NUMBER_RESPONSES = [
    "... Answer: 18", "Answer: $18.00", "Answer: 5600", "The answer: 18", "Answer: 18 eggs (16+2)", "Answer: -3",
    "Answer: 10.", "Answer: 10.0", "Answer: 1,234.50 of 2,000", "no number Answer: none", "Answer: ١٢ or 3.", "",
    "The answer is 18.", "so $1,234.50 total", "= 7", "7 eggs, 9 ducks", "none", "#### 18", "####18", "x #### -3 #### 4",
    "#### 1,000.5 and more", "#### -", "#### x #### 5", "costs $5", "a - b", "--5", "1 - 2 = -1", "., 3", "$$", "5-",
    "-$5.00", "12,", "Antwort: 3 Answer: 4 Antwort: 5.50.",
]
MATH_ANSWERS = [
    "1/2", "\\frac{1}{2}", "0.5", "\\frac12", "1,000", "1000", "(1,2)", "(1, 2)", "2", "2.0", "\\frac{2}{4}",
    "50\\%", "50%", "50", "x=3", "xyz=3", "3", "5\\text{ cm}", "5 cm", "5", "\\sqrt3", "\\sqrt{3}", "\\sqrt",
    "\\frac", "\\frac1", "\\frac1{72}", "\\frac{72}1", "\\tfrac 1 2", "\\dfrac{1}{2}", ".5", "-.5", "a/b", "3/4/5",
    "-3/4", "03/4", "+3/4", "3/ 4", "\\left(1,2\\right)", "90^\\circ", "90^{\\circ}", "90", "\\$5", "y==2", "k = 7",
    "7", "\\!7\n", "1\\text{ a}\\text{ b}", "", " ", "{.5}", "{0.5}", "\\\\frac12", "\\sqrt{2}+\\sqrt5", "0/1", "-0/1",
]


def answers_golden(simple_evals, mgsm, math_equivalence):
    text = pathlib.Path(simple_evals).read_text()
    patterns = text[text.index("ANSWER_PATTERN_MULTICHOICE ="):text.index("EQUALITY_TEMPLATE =")]
    functions = text[text.index("def normalize_response"):text.index("def url_to_fileobj")]
    common = {"re": re}
    exec(patterns + functions, common)
    by_language = load_functions(mgsm, "def parse_answer", "def get_lang_examples")
    equivalence = load_functions(math_equivalence, "def _fix_fracs", None)

    def mmlu(response):
        cleaned = common["normalize_response"](response)
        for word in common["MULTILINGUAL_ANSWER_REGEXES"]:
            found = re.search(common["MULTILINGUAL_ANSWER_PATTERN_TEMPLATE"].format(word), cleaned)
            if found:
                return common["normalize_extracted_answer"](found.group(1))
        return None

    def gpqa(response):
        found = re.search(common["ANSWER_PATTERN_MULTICHOICE"], response)
        return found.group(1) if found else None

    def last(pattern, response):
        found = re.findall(pattern, response)
        return next(g for g in found[-1] if g).strip() if found else None

    def first(pattern, response):
        found = re.findall(pattern, response)
        return found[0].strip() if found else None

    numbers = ["18", "18.00", "5,600", "5600", "2", "-3", "3", "10", "10.0", "1,234.50", "1234.5", "0", "0.0", "100"]
    return {
        "responses": RESPONSES,
        "mmlu": [mmlu(r) for r in RESPONSES],
        "gpqa": [gpqa(r) for r in RESPONSES],
        "number_responses": NUMBER_RESPONSES,
        "mgsm_en": [by_language["parse_answer"](r, "Answer") or None for r in NUMBER_RESPONSES],
        "mgsm_de": [by_language["parse_answer"](r, "Antwort") or None for r in NUMBER_RESPONSES],
        # lm-evaluation-harness' filters of gsm8k.yaml: strict-match and flexible-extract.
        "gsm8k_strict": [first(r"#### (\-?[0-9\.\,]+)", r) for r in NUMBER_RESPONSES],
        "gsm8k_flexible": [last(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", r) for r in NUMBER_RESPONSES],
        "numbers": numbers,
        "mgsm_matches": [[by_language["score_mgsm"](a, b) for b in numbers] for a in numbers],
        "math": MATH_ANSWERS,
        "math_equivalent": [[equivalence["is_equiv"](a, b) for b in MATH_ANSWERS] for a in MATH_ANSWERS],
    }


class NoWordNet:
    def synsets(self, word):
        return []


def aggregates(outputs, wordnet, squad):
    hypotheses = [" ".join(w for i, w in enumerate(t.split()) if i % 7 != 3) for t in outputs]
    out = {"samples": len(outputs)}
    for kwargs in [{}, {"tokenize": "intl"}, {"tokenize": "char"}, {"tokenize": "none"}, {"lowercase": True}]:
        metric = sacrebleu.BLEU(**kwargs)
        score = metric.corpus_score(hypotheses, [outputs]).score
        out["bleu " + str(metric.get_signature())] = score
    for kwargs in [{}, {"word_order": 2}]:
        score = sacrebleu.CHRF(**kwargs).corpus_score(hypotheses, [outputs])
        out[score.name] = score.score
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for name, stem in [("plain", False), ("stemmed", True)]:
        scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=stem)
        scores = [scorer.score(r, h) for h, r in zip(hypotheses, outputs)]
        for kind in kinds:
            out[f"{kind} {name}"] = sum(s[kind].fmeasure for s in scores) / len(scores)
    for name, dictionary in [("meteor without wordnet", NoWordNet()), ("meteor with wordnet 3.0", wordnet)]:
        scores = [
            meteor_score.single_meteor_score(r.split(), h.split(), wordnet=dictionary)
            for h, r in zip(hypotheses, outputs)
        ]
        out[name] = sum(scores) / len(scores)
        # Against the next record's output nearly every word has to be matched by stem or synonym.
        scores = [
            meteor_score.single_meteor_score(outputs[(i + 1) % len(outputs)].split(), h.split(), wordnet=dictionary)
            for i, h in enumerate(hypotheses)
        ]
        out[name + ", next record"] = sum(scores) / len(scores)
    for name, score in [("squad_em", "compute_exact"), ("token_f1", "compute_f1")]:
        out[name] = sum(squad[score](r, h) for h, r in zip(hypotheses, outputs)) / len(outputs)
    return out


def write(name, value):
    path = HERE / f"{name}.json"
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(path.name, path.stat().st_size)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--squad-v1", required=True)
    parser.add_argument("--squad-v2", required=True)
    parser.add_argument("--simple-evals", required=True)
    parser.add_argument("--mgsm", required=True)
    parser.add_argument("--math", required=True)
    parser.add_argument("--alpaca")
    parser.add_argument("--gsm8k")
    parser.add_argument("--wordnet", type=pathlib.Path)
    args = parser.parse_args()
    write("bleu", bleu_golden(random.Random(1)))
    write("chrf", chrf_golden(random.Random(2)))
    write("rouge", rouge_golden(random.Random(3)))
    write("porter", porter_golden())
    write("squad", squad_golden(random.Random(4), args.squad_v1, args.squad_v2))
    write("meteor", meteor_golden(random.Random(5)))
    write("significance", significance_golden(random.Random(6)))
    write("bert_score", bert_score_golden())
    write("answers", answers_golden(args.simple_evals, args.mgsm, args.math))
    if args.alpaca:
        wordnet = open_dictionary(args.wordnet)
        squad = load_functions(args.squad_v2, "def normalize_answer", "def get_raw_scores")
        write("alpaca", aggregates([r["output"] for r in json.load(open(args.alpaca))], wordnet, squad))
        lines = pathlib.Path(args.gsm8k).read_text().splitlines()
        write("gsm8k", aggregates([json.loads(line)["answer"] for line in lines], wordnet, squad))


if __name__ == "__main__":
    main()
