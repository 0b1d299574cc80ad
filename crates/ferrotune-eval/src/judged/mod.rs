//! Metrics whose numbers a judge gives.
//!
//! - [`Gpt4Score`]: a grade from 1 to 10 against the reference (`gpt4_score`), and [`FastChatScore`], the same read by
//!   FastChat's rules (`gpt4_score_fastchat`).
//! - [`AnswerCorrectness`]: how much of the reference an answer states, and how much besides (`ragas_answer_correctness`);
//!   the rules of ragas 0.1.7, 0.1.9 and 0.4 are there by name ([`CorrectnessRules`]).
//! - [`AnswerSimilarity`]: the cosine of sentence vectors by the rules of ragas (`ragas_answer_semantic_similarity`). It
//!   needs an encoder and no judge.
//!
//! All of them are made from a [`Judging`](crate::judge::Judging), that is a judge, a cache and options, and are metrics
//! like any other; [`Registry::with_judge`](crate::Registry::with_judge) registers them under their names, those that need vectors once there is
//! an encoder:
//!
//! ```
//! use std::sync::Arc;
//! use ferrotune_eval::{OnFailure, Pair, Registry, Run, evaluate, judge::*, statistics::Bootstrap};
//!
//! // ChatEndpoint::new(&EndpointOptions::new(url, model), key)? asks a server, ReplyCache::open(path)? remembers.
//! let reply = r#"{"reason": "the capital is right", "score": 9}"#;
//! let replies = [("1", reply), ("2", "10/10")].map(|(sample, text)| RecordedReply {
//!     sample: sample.into(),
//!     purpose: "gpt4_score".into(),
//!     text: text.into(),
//!     ..RecordedReply::default()
//! });
//! let judge = Arc::new(RecordedJudge::new("someone", replies));
//! let options = JudgingOptions { on_failure: OnFailure::Skip, ..JudgingOptions::default() };
//! let judging = Judging::new(judge, Arc::new(ReplyCache::in_memory()), options)?;
//! let metrics = Registry::with_text_metrics()?.with_judge(&judging, None)?.resolve("gpt4_score")?;
//!
//! let pairs = [Pair::new("1", "Paris", "Paris."), Pair::new("2", "Lyon", "Paris.")];
//! let found = evaluate(&metrics, &pairs, &Run::default(), &Bootstrap::default(), OnFailure::Skip)?;
//! let record = &found.records[0];
//! assert_eq!((record.value, record.n_scored, record.n_failed), (Some(9.0), 1, 1));
//! assert_eq!(record.judge.as_ref().map(|judge| judge.name.as_str()), Some("someone"));
//! # Ok::<(), ferrotune_eval::Error>(())
//! ```
//!
//! What a judge gets to read are texts that somebody else wrote, the candidate's among them. Each stands between two lines
//! that carry a code made from a digest of the texts, which no text can contain, and the judge is told that whatever
//! stands between them is data. Replies are read by a schema; what does not fit it is a counted failure, never a number.

mod answer_correctness;
mod answer_similarity;
mod gpt4_score;
mod prompt;
pub(crate) mod reply;

pub use answer_correctness::{AnswerCorrectness, CorrectnessConfig, CorrectnessRules};
pub use answer_similarity::{AnswerSimilarity, EmptyText};
pub use gpt4_score::{FastChatScore, Gpt4Score};
