//! Porter's stemmer as NLTK runs it by default (`PorterStemmer.NLTK_EXTENSIONS`), which ROUGE and METEOR use.
//!
//! It is neither the published algorithm nor Snowball's `porter`: NLTK adds a table of irregular forms and changes
//! steps 1a, 1b, 1c, 2 and the condition *o. *Source*: Porter, Program 14.3 (1980); `nltk/stem/porter.py` 3.10.4.

/// The stem of a word that is already in lower case; words of one or two characters are returned unchanged.
///
/// ```
/// assert_eq!(ferrotune_eval::porter_stem("generalizations"), "gener");
/// assert_eq!(ferrotune_eval::porter_stem("dies"), "die");
/// ```
#[must_use]
pub fn porter_stem(word: &str) -> String {
    let mut buffer = word.as_bytes().to_vec();
    stem_in_place(&mut buffer, 0);
    String::from_utf8(buffer).unwrap_or_else(|_| word.to_owned())
}

/// Stems the bytes of `buffer` from `start`, which are one lower-case word in UTF-8.
pub(crate) fn stem_in_place(buffer: &mut Vec<u8>, start: usize) {
    if let Some(stem) = irregular(&buffer[start..]) {
        buffer.truncate(start);
        buffer.extend_from_slice(stem);
        return;
    }
    let mut word = Word { buffer, start };
    if word.chars() <= 2 {
        return;
    }
    word.step_1a();
    word.step_1b();
    word.step_1c();
    word.step_2();
    word.first_rule(STEP_3, |stem, _| stem.measure() > 0);
    word.first_rule(STEP_4, |stem, suffix| {
        stem.measure() > 1 && (suffix != b"ion" || matches!(stem.last(), Some(b's' | b't')))
    });
    word.step_5();
}

type Rule = (&'static [u8], &'static [u8]);

const STEP_2: &[Rule] = &[
    (b"ational", b"ate"),
    (b"tional", b"tion"),
    (b"enci", b"ence"),
    (b"anci", b"ance"),
    (b"izer", b"ize"),
    (b"bli", b"ble"),
    (b"alli", b"al"),
    (b"entli", b"ent"),
    (b"eli", b"e"),
    (b"ousli", b"ous"),
    (b"ization", b"ize"),
    (b"ation", b"ate"),
    (b"ator", b"ate"),
    (b"alism", b"al"),
    (b"iveness", b"ive"),
    (b"fulness", b"ful"),
    (b"ousness", b"ous"),
    (b"aliti", b"al"),
    (b"iviti", b"ive"),
    (b"biliti", b"ble"),
    (b"fulli", b"ful"),
    (b"logi", b"log"),
];

const STEP_3: &[Rule] = &[
    (b"icate", b"ic"),
    (b"ative", b""),
    (b"alize", b"al"),
    (b"iciti", b"ic"),
    (b"ical", b"ic"),
    (b"ful", b""),
    (b"ness", b""),
];

const STEP_4: &[Rule] = &[
    (b"al", b""),
    (b"ance", b""),
    (b"ence", b""),
    (b"er", b""),
    (b"ic", b""),
    (b"able", b""),
    (b"ible", b""),
    (b"ant", b""),
    (b"ement", b""),
    (b"ment", b""),
    (b"ent", b""),
    (b"ion", b""),
    (b"ou", b""),
    (b"ism", b""),
    (b"ate", b""),
    (b"iti", b""),
    (b"ous", b""),
    (b"ive", b""),
    (b"ize", b""),
];

fn irregular(word: &[u8]) -> Option<&'static [u8]> {
    Some(match word {
        b"sky" | b"skies" => b"sky",
        b"dying" => b"die",
        b"lying" => b"lie",
        b"tying" => b"tie",
        b"news" => b"news",
        b"innings" | b"inning" => b"inning",
        b"outings" | b"outing" => b"outing",
        b"cannings" | b"canning" => b"canning",
        b"howe" => b"howe",
        b"proceed" => b"proceed",
        b"exceed" => b"exceed",
        b"succeed" => b"succeed",
        _ => return None,
    })
}

/// The end of a buffer, seen as a word. A character outside ASCII counts as one consonant where characters are
/// counted; in the measure its several bytes do no harm, being a run of consonants.
struct Word<'b> {
    buffer: &'b mut Vec<u8>,
    start: usize,
}

/// A part of a word from its beginning.
#[derive(Clone, Copy)]
struct Stem<'w>(&'w [u8]);

impl Stem<'_> {
    fn last(self) -> Option<u8> {
        self.0.last().copied()
    }

    /// For each byte whether it is a consonant: `y` is one unless it follows one.
    fn consonants(self) -> impl Iterator<Item = bool> {
        let mut previous = false;
        self.0.iter().map(move |&byte| {
            previous = match byte {
                b'a' | b'e' | b'i' | b'o' | b'u' => false,
                b'y' => !previous,
                _ => true,
            };
            previous
        })
    }

    /// How often a vowel is followed by a consonant.
    fn measure(self) -> usize {
        let mut after_vowel = false;
        let mut measure = 0;
        for consonant in self.consonants() {
            measure += usize::from(consonant && after_vowel);
            after_vowel = !consonant;
        }
        measure
    }

    fn contains_vowel(self) -> bool {
        self.consonants().any(|consonant| !consonant)
    }

    /// The last three characters, last first, each with whether it is a consonant; and the number of all characters.
    fn ending(self) -> ([(char, bool); 3], usize) {
        let mut ending = [('\0', false); 3];
        let mut count = 0;
        let mut flags = self.consonants();
        for c in str::from_utf8(self.0).unwrap_or_default().chars() {
            // The bytes of one character are flagged alike.
            let consonant = flags.nth(c.len_utf8() - 1).unwrap_or_default();
            ending.rotate_right(1);
            ending[0] = (c, consonant);
            count += 1;
        }
        (ending, count)
    }

    fn ends_in_double_consonant(self) -> bool {
        let ([last, before, _], count) = self.ending();
        count >= 2 && last.0 == before.0 && last.1
    }

    /// Condition *o, with NLTK's addition for stems of two letters.
    fn ends_in_cvc(self) -> bool {
        let ([last, middle, first], count) = self.ending();
        (count >= 3 && first.1 && !middle.1 && last.1 && !matches!(last.0, 'w' | 'x' | 'y'))
            || (count == 2 && !middle.1 && last.1)
    }
}

impl Word<'_> {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn chars(&self) -> usize {
        self.bytes().iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
    }

    fn ends_with(&self, suffix: &[u8]) -> bool {
        self.bytes().ends_with(suffix)
    }

    /// What is left without the last `bytes` bytes.
    fn without(&self, bytes: usize) -> Stem<'_> {
        Stem(&self.bytes()[..self.bytes().len() - bytes])
    }

    fn replace(&mut self, suffix: usize, replacement: &[u8]) {
        self.buffer.truncate(self.buffer.len() - suffix);
        self.buffer.extend_from_slice(replacement);
    }

    /// Applies the first rule whose suffix fits, if its condition holds; later rules are not tried.
    fn first_rule(&mut self, rules: &[Rule], condition: impl Fn(Stem<'_>, &[u8]) -> bool) {
        // Most words match no rule, which the last byte tells in most cases.
        let last = self.bytes().last().copied();
        for (suffix, replacement) in rules {
            if suffix.last().copied() == last && self.ends_with(suffix) {
                if condition(self.without(suffix.len()), suffix) {
                    self.replace(suffix.len(), replacement);
                }
                return;
            }
        }
    }

    fn step_1a(&mut self) {
        if !self.ends_with(b"s") {
            return;
        }
        if self.ends_with(b"ies") && self.chars() == 4 {
            self.replace(1, b"");
        } else if self.ends_with(b"sses") || self.ends_with(b"ies") {
            self.replace(2, b"");
        } else if !self.ends_with(b"ss") {
            self.replace(1, b"");
        }
    }

    fn step_1b(&mut self) {
        if self.ends_with(b"ied") {
            let removed = if self.chars() == 4 { 1 } else { 2 };
            self.replace(removed, b"");
            return;
        }
        if self.ends_with(b"eed") {
            if self.without(3).measure() > 0 {
                self.replace(1, b"");
            }
            return;
        }
        let suffix = if self.ends_with(b"ed") {
            2
        } else if self.ends_with(b"ing") {
            3
        } else {
            return;
        };
        if !self.without(suffix).contains_vowel() {
            return;
        }
        self.replace(suffix, b"");
        if self.ends_with(b"at") || self.ends_with(b"bl") || self.ends_with(b"iz") {
            self.buffer.push(b'e');
        } else if self.without(0).ends_in_double_consonant() {
            if !matches!(self.bytes().last(), Some(b'l' | b's' | b'z')) {
                self.drop_last_char();
            }
        } else if self.ends_with(b"*d") {
            // NLTK writes the rule for double consonants as the suffix `*d` and then also tries it as a suffix.
            self.replace(2, b"d");
        } else if self.without(0).measure() == 1 && self.without(0).ends_in_cvc() {
            self.buffer.push(b'e');
        }
    }

    fn drop_last_char(&mut self) {
        while let Some(byte) = self.buffer.pop() {
            if byte & 0xc0 != 0x80 {
                break;
            }
        }
    }

    fn step_1c(&mut self) {
        if self.ends_with(b"y") {
            let stem = self.without(1);
            let ([last, ..], count) = stem.ending();
            if count > 1 && last.1 {
                self.replace(1, b"i");
            }
        }
    }

    fn step_2(&mut self) {
        if self.ends_with(b"alli") && self.without(4).measure() > 0 {
            self.replace(2, b"");
        }
        let log = self.ends_with(b"logi") && self.without(3).measure() > 0;
        self.first_rule(STEP_2, |stem, suffix| if suffix == b"logi" { log } else { stem.measure() > 0 });
    }

    fn step_5(&mut self) {
        if self.ends_with(b"e") {
            let stem = self.without(1);
            let measure = stem.measure();
            if measure > 1 || (measure == 1 && !stem.ends_in_cvc()) {
                self.replace(1, b"");
            }
        }
        if self.ends_with(b"ll") && self.without(1).measure() > 1 {
            self.replace(1, b"");
        }
    }
}
