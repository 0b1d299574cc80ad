//! Records in a checkpoint's own chat template, as ids with what is to be learnt marked.
//!
//! The whole conversation is rendered and tokenized once. A model's turn is what the text has beyond the same conversation
//! with the turn only introduced, so it holds the answer and what ends it (`</s>`, `<|im_end|>`), which must be learnt as
//! well. A template that writes the beginning of a conversation differently once it goes on has no such turns, and is
//! refused.

use std::ops::Range;

use ferrotune_core::{Message, Role, Sample, Tokenize};

use crate::{
    ChatTemplate, Encoded, Error, GenerationPrompt, Limits, Record, Turn,
    encode::{covers, id, refused, within},
};

/// Encodes one record as [`encode`](fn@crate::encode) does, written by a chat template.
///
/// BOS is put before the text unless the template did, and EOS after it only if the template writes nothing after an
/// answer. What spells a special token is that token, in the records' texts too, as in transformers.
pub(crate) fn encode(
    record: &Record,
    template: &ChatTemplate,
    tokenizer: &dyn Tokenize,
    limits: &Limits,
) -> Result<Encoded, Error> {
    limits.check()?;
    let messages = conversation(record, template)?;
    let whole = template.render(&messages, GenerationPrompt::Omitted)?;
    let turns = turns(&messages, template, &whole)?;
    let mut longest_request = 0;
    for turn in &record.turns {
        let request = tokenizer.encode(&turn.request).map_err(|source| refused(record, source))?;
        longest_request = longest_request.max(request.ids.len());
    }
    // Nothing is predicted after the last turn.
    let end = turns.last().map_or(whole.len(), |turn| turn.end);
    let encoding = tokenizer.encode_markup(&whole[..end]).map_err(|source| refused(record, source))?;
    let supervised =
        encoding.offsets.iter().map(|token| turns.iter().any(|turn| covers(token, turn))).collect();
    let mut sample = Sample { ids: encoding.ids, supervised, truncated: false };
    if begin(&mut sample.ids, tokenizer) {
        sample.supervised.insert(0, false);
    }
    let last = record.turns.last().map_or("", |turn| turn.response.trim());
    if !last.is_empty() && whole[..end].ends_with(last) {
        sample.ids.push(id("eos", tokenizer.special().eos)?);
        sample.supervised.push(true);
    }
    Ok(within(limits, sample, longest_request))
}

/// The ids a model is given to answer a record's last request.
pub(crate) fn encode_prompt(
    record: &Record,
    template: &ChatTemplate,
    tokenizer: &dyn Tokenize,
) -> Result<Vec<u32>, Error> {
    let mut messages = conversation(record, template)?;
    messages.pop();
    let text = template.render(&messages, GenerationPrompt::Added)?;
    let mut ids = tokenizer.encode_markup(&text).map_err(|source| refused(record, source))?.ids;
    begin(&mut ids, tokenizer);
    Ok(ids)
}

/// Puts BOS before ids that do not begin with it; says whether it did.
fn begin(ids: &mut Vec<u32>, tokenizer: &dyn Tokenize) -> bool {
    let missing = tokenizer.special().bos.filter(|bos| ids.first() != Some(bos));
    if let Some(bos) = missing {
        ids.insert(0, bos);
    }
    missing.is_some()
}

/// The record's turns as messages; where the template refuses a system message or leaves it out, it goes before the first
/// request.
fn conversation(record: &Record, template: &ChatTemplate) -> Result<Vec<Message>, Error> {
    let of_turn = |turn: &Turn| {
        [Message::new(Role::User, &turn.request), Message::new(Role::Assistant, &turn.response)]
    };
    let mut messages: Vec<Message> = record.turns.iter().flat_map(of_turn).collect();
    if let Some(system) = &record.system {
        messages.insert(0, Message::new(Role::System, system));
        let rendered = template.render(&messages, GenerationPrompt::Omitted);
        if !rendered.is_ok_and(|text| text.contains(system.trim())) {
            messages.remove(0);
            if let Some(first) = messages.first_mut() {
                first.content = format!("{system}\n\n{}", first.content);
            }
        }
    }
    Ok(messages)
}

/// The bytes of each of the model's turns: the answer and what ends it.
fn turns(messages: &[Message], template: &ChatTemplate, whole: &str) -> Result<Vec<Range<usize>>, Error> {
    let answers = messages.iter().enumerate().filter(|(_, message)| message.role == Role::Assistant);
    answers
        .map(|(place, _)| {
            let before = template.render(&messages[..place], GenerationPrompt::Added)?;
            let after = template.render(&messages[..=place], GenerationPrompt::Omitted)?;
            // The last turn's white space after its end is not the model's to write.
            let end = after.trim_end().len();
            if whole.starts_with(&before) && whole.starts_with(&after[..end]) && before.len() < end {
                Ok(before.len()..end)
            } else {
                Err(template.refusal(
                    "a conversation with its answers does not begin as the same one up to an answer, so that the \
                     model's turns cannot be told from the rest",
                ))
            }
        })
        .collect()
}
