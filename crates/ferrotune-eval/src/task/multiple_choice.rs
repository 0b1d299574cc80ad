//! What MMLU and GPQA share: simple-evals' instruction for questions with four choices.

/// simple-evals' prompt, word for word, since a paraphrase would be another variant.
///
/// *Source*: `common.py` of openai/simple-evals, 2025-07-09 (MIT).
pub(super) fn instruction(question: &str, choices: &[String; 4]) -> String {
    let [a, b, c, d] = choices;
    format!(
        "Answer the following multiple choice question. The last line of your response should be of the following \
         format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.\
         \n\n{question}\n\nA) {a}\nB) {b}\nC) {c}\nD) {d}"
    )
}
