//! A model folder's `tokenizer.json` as the port that the rest of Ferrotune speaks to.

use std::{ops::Range, path::Path, sync::OnceLock};

use ferrotune_core::{BoxError, Encoding, SpecialTokens, Tokenize, digest};

use crate::{Error, special};

/// Changes when this module changes what a given tokenizer.json encodes to.
const FINGERPRINT_VERSION: &str = "ferrotune tokenizer 1";

/// A Hugging Face tokenizer that adds nothing and takes text for text.
///
/// The file's own post-processor, truncation and padding are not used, and a special token spelt in a text
/// (`</s>`) is encoded as the characters it is written with, as SentencePiece does: a response that talks
/// about `</s>` must not end the sequence. Encoding is a pure function and may be called from many threads.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same tokenizer that takes spelt special tokens for what they spell; made when first asked.
    markup: OnceLock<tokenizers::Tokenizer>,
    special: SpecialTokens,
    vocabulary_size: usize,
    fingerprint: String,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and the special ids from the JSON files beside it
    /// (`tokenizer_config.json`, `special_tokens_map.json`, `config.json`, `generation_config.json`; each may
    /// be absent).
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] where the folder has none (with the remedy if it holds a SentencePiece model
    /// only), [`Error::TokenizerFile`] for a file that cannot be understood, [`Error::SpecialTokenConflict`]
    /// where files disagree.
    pub fn from_folder(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoTokenizer {
                    folder: folder.to_owned(),
                    sentencepiece_only: folder.join("tokenizer.model").exists(),
                });
            }
            Err(source) => return Err(Error::Read { path, source }),
        };
        let invalid = |problem: String| Error::TokenizerFile { path: path.clone(), problem };
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|problem| invalid(format!("it is not a tokenizer file, {problem}")))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|problem| invalid(problem.to_string()))?;
        inner.set_encode_special_tokens(true);
        let special = special::resolve(folder, &inner)?;
        let vocabulary_size =
            inner.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1);
        let fingerprint = digest::of_bytes(
            format!("{FINGERPRINT_VERSION}\n{}\n{special:?}", digest::of_bytes(&bytes)).as_bytes(),
        );
        let tokenizer = Self { inner, markup: OnceLock::new(), special, vocabulary_size, fingerprint };
        tokenizer.check_that_text_stays_text().map_err(invalid)?;
        Ok(tokenizer)
    }

    /// Holds the file to the promise of [`Tokenize`]: no text may become BOS or EOS.
    ///
    /// An added token that is not marked special, or merges that build a special token's spelling, would
    /// break it.
    fn check_that_text_stays_text(&self) -> Result<(), String> {
        let specials = [("bos", self.special.bos), ("eos", self.special.eos)];
        for (role, id, token) in
            specials.iter().filter_map(|&(role, id)| Some((role, id?, self.inner.id_to_token(id?)?)))
        {
            for text in [token.clone(), format!("a{token}b"), format!("a {token} b")] {
                let encoding = self.encode(&text).map_err(|problem| problem.to_string())?;
                if encoding.ids.contains(&id) {
                    return Err(format!(
                        "the text `{token}` encodes to the {role} id {id}, so that a record could end or begin \
                         anywhere; mark the token as special in added_tokens and remove merges that build it"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn encoded(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Encoding, BoxError> {
    let encoding = tokenizer.encode(text, false)?;
    let offsets = encoding.get_offsets().iter().map(|&(start, end)| Range { start, end }).collect();
    Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets })
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary_size", &self.vocabulary_size)
            .field("special", &self.special)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Tokenize for Tokenizer {
    /// Offsets are byte ranges of `text`. All byte-fallback tokens of one character cover that whole
    /// character, and a piece that begins with the word mark covers the space that the mark stands for, if
    /// there is one.
    fn encode(&self, text: &str) -> Result<Encoding, BoxError> {
        encoded(&self.inner, text)
    }

    fn encode_markup(&self, text: &str) -> Result<Encoding, BoxError> {
        let markup = self.markup.get_or_init(|| {
            let mut markup = self.inner.clone();
            markup.set_encode_special_tokens(false);
            markup
        });
        encoded(markup, text)
    }

    /// SentencePiece decoders drop one space at the beginning of a text, also where `ids` are the middle of
    /// one.
    fn decode(&self, ids: &[u32]) -> Result<String, BoxError> {
        self.inner.decode(ids, true)
    }

    fn special(&self) -> &SpecialTokens {
        &self.special
    }

    fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}
