//! The special ids of a model folder, gathered from every file that names them and held against each other.

use std::{fs, path::Path};

use ferrotune_core::SpecialTokens;
use serde_json::Value;

use crate::Error;

/// What one key of one file says: the ids it allows.
struct Claim {
    from: String,
    said: String,
    ids: Vec<u32>,
}

/// BOS and EOS as all files of the folder agree on them, and the pad token of the first file that names one.
///
/// `tokenizer_config.json` and `special_tokens_map.json` name tokens, `config.json` and
/// `generation_config.json` name ids. A list of EOS ids (chat checkpoints stop at several) allows each of its
/// members; where only lists speak, the first member counts, and the others end answers as well. Negative ids, which
/// old LLaMA configurations use for "none", are passed over. Nothing is computed from padding, so files that differ about
/// it, or name one that the vocabulary lacks, are no reason to refuse a folder.
///
/// # Errors
/// A file is not JSON, names a BOS or EOS outside the vocabulary, or contradicts another in them.
pub(crate) fn resolve(folder: &Path, tokenizer: &tokenizers::Tokenizer) -> Result<SpecialTokens, Error> {
    let files = [
        ("tokenizer_config.json", false),
        ("special_tokens_map.json", false),
        ("config.json", true),
        ("generation_config.json", true),
    ]
    .into_iter()
    .filter_map(|(name, by_id)| read_object(&folder.join(name)).transpose().map(|file| (name, by_id, file)))
    .map(|(name, by_id, file)| file.map(|file| (name, by_id, file)))
    .collect::<Result<Vec<_>, Error>>()?;

    let claims = |role: &'static str| -> Result<Vec<Claim>, Error> {
        let mut claims = Vec::new();
        for (name, by_id, file) in &files {
            let key = if *by_id { format!("{role}_token_id") } else { format!("{role}_token") };
            let Some(value) = file.get(&key).filter(|value| !value.is_null()) else { continue };
            let invalid = |problem: String| Error::TokenizerFile { path: folder.join(name), problem };
            let ids = if *by_id {
                ids(value)
                    .ok_or_else(|| invalid(format!("`{key}` is {value}, expected an id or a list of ids")))?
            } else {
                let token =
                    content(value).ok_or_else(|| invalid(format!("`{key}` is {value}, expected a token")))?;
                let id = tokenizer.token_to_id(token).ok_or_else(|| {
                    invalid(format!("`{key}` is `{token}`, which the vocabulary of tokenizer.json lacks"))
                })?;
                vec![id]
            };
            if let Some(id) = ids.iter().find(|&&id| tokenizer.id_to_token(id).is_none()) {
                return Err(invalid(format!(
                    "`{key}` is {id}, which the vocabulary of tokenizer.json lacks"
                )));
            }
            if !ids.is_empty() {
                claims.push(Claim { from: format!("{key} of {name}"), said: value.to_string(), ids });
            }
        }
        Ok(claims)
    };
    let eos_claims = claims("eos")?;
    let eos = agree(folder, "eos", &eos_claims)?;
    let mut other_ends: Vec<u32> = eos_claims.into_iter().flat_map(|claim| claim.ids).collect();
    other_ends.retain(|&id| Some(id) != eos);
    other_ends.sort_unstable();
    other_ends.dedup();
    let bos = agree(folder, "bos", &claims("bos")?)?;
    let pad = claims("pad").ok().and_then(|claims| claims.first()?.ids.first().copied());
    Ok(SpecialTokens { bos, eos, other_ends, pad })
}

/// The first id of the narrowest claim that every claim allows.
fn agree(folder: &Path, role: &'static str, claims: &[Claim]) -> Result<Option<u32>, Error> {
    let Some(narrowest) = claims.iter().min_by_key(|claim| claim.ids.len()) else { return Ok(None) };
    let allowed = |id: &u32| claims.iter().all(|claim| claim.ids.contains(id));
    if let Some(&id) = narrowest.ids.iter().find(|id| allowed(id)) {
        return Ok(Some(id));
    }
    let other = claims
        .iter()
        .find(|claim| !narrowest.ids.iter().any(|id| claim.ids.contains(id)))
        .unwrap_or(narrowest);
    Err(Error::SpecialTokenConflict {
        folder: folder.to_owned(),
        role,
        first: named(narrowest),
        second: named(other),
    })
}

fn named(claim: &Claim) -> String {
    let Claim { from, said, ids } = claim;
    match ids.as_slice() {
        [id] if said.starts_with(['"', '{']) => format!("{said} (id {id}) in {from}"),
        _ => format!("{said} in {from}"),
    }
}

/// The JSON object in a file; nothing where there is no file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Value>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value @ Value::Object(_)) => Ok(Some(value)),
        Ok(_) => {
            Err(Error::TokenizerFile { path: path.to_owned(), problem: "it holds no JSON object".to_owned() })
        }
        Err(problem) => {
            Err(Error::TokenizerFile { path: path.to_owned(), problem: format!("malformed JSON, {problem}") })
        }
    }
}

/// A token is written as its text or as an object with `content`.
pub(crate) fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| match value.as_i64() {
        Some(negative) if negative < 0 => Some(None),
        _ => value.as_u64().and_then(|id| u32::try_from(id).ok()).map(Some),
    };
    match value {
        Value::Array(list) => {
            list.iter().map(id).collect::<Option<Vec<_>>>().map(|ids| ids.into_iter().flatten().collect())
        }
        single => id(single).map(|id| id.into_iter().collect()),
    }
}
