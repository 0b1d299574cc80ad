use ferrotune_eval::porter_stem;

use crate::{golden, strings};

#[test]
fn stems_equal_nltks() {
    let golden = golden!("porter");
    let (words, stems) = (strings(&golden["words"]), strings(&golden["stems"]));
    assert_eq!(words.len(), stems.len());
    for (word, stem) in words.iter().zip(stems) {
        assert_eq!(porter_stem(&word.to_lowercase()), stem, "{word}");
    }
}

#[test]
fn the_words_that_tell_the_variants_apart_stem_as_nltk_has_them() {
    for (word, stem) in [
        ("skies", "sky"),
        ("dying", "die"),
        ("innings", "inning"),
        ("dies", "die"),
        ("tied", "tie"),
        ("enjoy", "enjoy"),
        ("spy", "spi"),
        ("by", "by"),
        ("say", "say"),
        ("happy", "happi"),
        ("agreed", "agre"),
        ("relational", "relat"),
        ("conditional", "condit"),
        ("digitizer", "digit"),
        ("vietnamization", "vietnam"),
        ("sensitiviti", "sensit"),
        ("sensibiliti", "sensibl"),
        ("hopefulness", "hope"),
        ("generalizations", "gener"),
        ("oscillators", "oscil"),
        ("theology", "theolog"),
        ("awfully", "aw"),
        ("archaeology", "archaeolog"),
        ("buses", "buse"),
        ("aed", "a"),
        ("eed", "eed"),
        ("ing", "ing"),
        ("controll", "control"),
        ("roll", "roll"),
        ("cease", "ceas"),
        ("rate", "rate"),
    ] {
        assert_eq!(porter_stem(word), stem, "{word}");
    }
}
