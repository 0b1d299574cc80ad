//! nltk's alignment: stage by stage, from the last word to the first.

use std::collections::{HashMap, HashSet};

use super::WordNet;
use crate::porter_stem;

/// A word that is still free, with its place in the sentence.
#[derive(Clone, Debug)]
struct Free {
    place: usize,
    form: String,
}

/// Pairs of places (prediction, reference) that match, sorted by the prediction's.
///
/// The third stage looks up the stems that the second one left behind, so `automobile` is looked up as `automobil`,
/// which no dictionary has.
pub(super) fn align(
    reference: &[impl AsRef<str>],
    prediction: &[impl AsRef<str>],
    wordnet: Option<&WordNet>,
) -> Vec<(usize, usize)> {
    let (mut reference, mut prediction) = (free(reference), free(prediction));
    let mut alignment = Vec::new();
    match_equal(&mut reference, &mut prediction, &mut alignment);
    for word in reference.iter_mut().chain(&mut prediction) {
        word.form = porter_stem(&word.form);
    }
    match_equal(&mut reference, &mut prediction, &mut alignment);
    if let Some(wordnet) = wordnet {
        match_by(&mut reference, &mut prediction, &mut alignment, |form| {
            let mut forms: HashSet<String> = wordnet.synonyms(form);
            forms.insert(form.to_owned());
            forms.into_iter().collect()
        });
    }
    alignment.sort_unstable();
    alignment
}

/// Runs of matches that are adjacent and in the same order on both sides.
pub(super) fn chunks(alignment: &[(usize, usize)]) -> usize {
    1 + alignment.windows(2).filter(|pair| pair[1] != (pair[0].0 + 1, pair[0].1 + 1)).count()
}

fn free(words: &[impl AsRef<str>]) -> Vec<Free> {
    let of_word =
        |(place, word): (usize, &_)| Free { place, form: AsRef::<str>::as_ref(word).to_lowercase() };
    words.iter().enumerate().map(of_word).collect()
}

fn match_equal(reference: &mut Vec<Free>, prediction: &mut Vec<Free>, alignment: &mut Vec<(usize, usize)>) {
    match_by(reference, prediction, alignment, |form| vec![form.to_owned()]);
}

/// Takes the predicted words from the last to the first, gives each the last free reference word among its acceptable
/// forms, and removes both from what is free.
fn match_by(
    reference: &mut Vec<Free>,
    prediction: &mut Vec<Free>,
    alignment: &mut Vec<(usize, usize)>,
    acceptable: impl Fn(&str) -> Vec<String>,
) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, word) in reference.iter().enumerate() {
        places.entry(&word.form).or_default().push(at);
    }
    let mut taken = (vec![false; reference.len()], vec![false; prediction.len()]);
    for (at, word) in prediction.iter().enumerate().rev() {
        let forms = acceptable(&word.form);
        let last_of = |form: &String| places.get(form.as_str()).and_then(|free| free.last().copied());
        if let Some((found, form)) = forms.iter().filter_map(|form| Some((last_of(form)?, form))).max()
            && let Some(free) = places.get_mut(form.as_str())
        {
            free.pop();
            taken.0[found] = true;
            taken.1[at] = true;
            alignment.push((word.place, reference[found].place));
        }
    }
    retain_free(reference, &taken.0);
    retain_free(prediction, &taken.1);
}

fn retain_free(words: &mut Vec<Free>, taken: &[bool]) {
    let mut taken = taken.iter();
    words.retain(|_| taken.next() == Some(&false));
}
