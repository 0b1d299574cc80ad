//! What each of MGSM's eleven languages calls things, by suite.

/// The words of one language.
#[derive(Debug)]
pub(super) struct Language {
    /// Its code, as in the names of the files.
    pub(super) code: &'static str,
    /// What a question is introduced by, with the sign after it.
    pub(super) question: &'static str,
    /// What asks for an answer in steps.
    pub(super) steps: &'static str,
    /// What asks for an answer alone.
    pub(super) direct: &'static str,
    /// What stands before and after the number in a closing sentence.
    pub(super) closing: (&'static str, &'static str),
    /// simple-evals' instruction.
    pub(super) instruction: &'static str,
    /// Whether it is written in Latin letters, by simple-evals' grouping.
    pub(super) is_latin: bool,
}

/// In alphabetical order of their codes.
///
/// *Sources*: the task files of lm-evaluation-harness 0.4.13 (`mgsm`); `mgsm_eval.py` of openai/simple-evals, 2025-07-09
/// (MIT), whose instructions are word for word, since a paraphrase would be another variant.
pub(super) const LANGUAGES: [Language; 11] = [
    Language {
        code: "bn",
        question: "প্রশ্ন:",
        steps: "ধাপে ধাপে উত্তর:",
        direct: "Answer:",
        closing: ("The answer is ", ""),
        instruction: "এই গণিতের সমস্যাটি সমাধান করুন। চূড়ান্ত উত্তর দেওয়ার আগে যুক্তিসম্পন্ন পদক্ষেপ প্রদান করুন। চূড়ান্ত উত্তরটি একক সংখ্যা হিসাবে \"উত্তর:\" এর পরে শেষ লাইনে দিন। \"উত্তর:\" এর পরে অন্য কিছু যুক্ত করবেন না।.",
        is_latin: false,
    },
    Language {
        code: "de",
        question: "Frage:",
        steps: "Schritt-für-Schritt-Antwort:",
        direct: "Antwort:",
        closing: ("Die Antwort lautet ", ""),
        instruction: "Löse dieses Mathematikproblem. Gib die Schritte zur Begründung an, bevor du die endgültige Antwort in der letzten Zeile alleine im Format \"Antwort:\" gibst. Füge nichts anderes als die ganzzahlige Antwort nach \"Antwort:\" hinzu.",
        is_latin: true,
    },
    Language {
        code: "en",
        question: "Question:",
        steps: "Step-by-Step Answer:",
        direct: "Answer:",
        closing: ("The answer is ", ""),
        instruction: "Solve this math problem. Give the reasoning steps before giving the final answer on the last line by itself in the format of \"Answer:\". Do not add anything other than the integer answer after \"Answer:\".",
        is_latin: true,
    },
    Language {
        code: "es",
        question: "Pregunta:",
        steps: "Respuesta paso a paso:",
        direct: "Respuesta:",
        closing: ("La respuesta es ", ""),
        instruction: "Resuelve este problema matemático. Proporciona los pasos de razonamiento antes de dar la respuesta final en la última línea por sí misma en el formato de \"Respuesta:\". No añadas nada más que la respuesta entera después de \"Respuesta:\".",
        is_latin: true,
    },
    Language {
        code: "fr",
        question: "Question :",
        steps: "Réponse étape par étape :",
        direct: "Réponse :",
        closing: ("La réponse est ", ""),
        instruction: "Résolvez ce problème de mathématiques. Donnez les étapes de raisonnement avant de fournir la réponse finale sur la dernière ligne elle-même dans le format de \"Réponse:\". N'ajoutez rien d'autre que la réponse entière après \"Réponse:\".",
        is_latin: true,
    },
    Language {
        code: "ja",
        question: "問題：",
        steps: "ステップごとの答え:",
        direct: "Answer:",
        closing: ("答えは", "です。"),
        instruction: "の数学の問題を解いてください。最終的な答えを出す前に、解答の推論過程を記述してください。そして最後の行には \"答え:\" の形式で答えを記述し、その後には整数の答え以外何も追加しないでください。",
        is_latin: false,
    },
    Language {
        code: "ru",
        question: "Задача:",
        steps: "Пошаговоерешение:",
        direct: "Answer:",
        closing: ("Ответ — ", ""),
        instruction: "Решите эту математическую задачу. Объясните шаги рассуждения перед тем, как дать окончательный ответ в последней строке сам по себе в формате \"Ответ:\". Не добавляйте ничего, кроме целочисленного ответа после \"Ответ:\".",
        is_latin: false,
    },
    Language {
        code: "sw",
        question: "Swali:",
        steps: "Jibu la Hatua kwa Hatua:",
        direct: "Answer:",
        closing: ("Jibu ni ", ""),
        instruction: "Suluhisha tatizo hili la hesabu. Toa hatua za mantiki kabla ya kutoa jibu la mwisho kwenye mstari wa mwisho peke yake katika muundo wa \"Jibu:\". Usiongeze chochote kingine isipokuwa jibu la integer baada ya \"Jibu:\".",
        is_latin: true,
    },
    Language {
        code: "te",
        question: "ప్రశ్న:",
        steps: "దశలవారీగా సమాధానం:",
        direct: "Answer:",
        closing: ("సమాధానం ", ""),
        instruction: "ఈ గణిత సమస్యను పరిష్కరించండి. చివరి సమాధానాన్ని ఇవ్వదానికి ముందు తర్కాత్మక అదుగులను ఇవ్వండి. చివరి పంక్తిలో మాత్రమే 'సమాధానం:' అనే ఆకారంలో చివరి సమాధానాద్ని ఇవ్వండి సమాధానం: తర్వాత పూర్ణాంక సమాధానానికి తప్పించి ఎదేనా చేర్చవద్దు.",
        is_latin: false,
    },
    Language {
        code: "th",
        question: "โจทย์:",
        steps: "คำตอบทีละขั้นตอน:",
        direct: "Answer:",
        closing: ("คำตอบคือ ", ""),
        instruction: "แก้ปัญหาคณิตศาสตร์นี้ ให้ให้ขั้นตอนการใช้เหตุผลก่อนที่จะให้คำตอบสุดท้ายในบรรทัดสุดท้ายโดยอยู่ในรูปแบบ \"คำตอบ:\" ไม่ควรเพิ่มอะไรนอกจากคำตอบที่เป็นจำนวนเต็มหลังจาก \"คำตอบ:\"",
        is_latin: false,
    },
    Language {
        code: "zh",
        question: "问题：",
        steps: "逐步解答:",
        direct: "Answer:",
        closing: ("答案是 ", "。"),
        instruction: "解决这个数学问题。在最后一行给出答案前，请提供推理步骤。最后一行应该以 \"答案: \" 的形式独立给出答案。在 \"答案：\" 后不要添加除整数答案之外的任何内容。",
        is_latin: false,
    },
];

/// What asks for an answer in steps where the steps are to be in English, and its closing sentence.
pub(super) const ENGLISH_STEPS: &str = "Step-by-Step Answer:";
pub(super) const ENGLISH_CLOSING: (&str, &str) = ("The answer is ", "");
