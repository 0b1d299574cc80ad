use std::{fs, sync::Arc, thread};

use ferrotune_eval::{
    Error, LineProblem, Metric as _, OnFailure, Pair,
    judge::{Judging, JudgingOptions, RecordedJudge, RecordedReply, ReplyCache},
    judged::Gpt4Score,
};

fn reply(sample: &str, score: u32) -> RecordedReply {
    RecordedReply {
        sample: sample.to_owned(),
        purpose: "gpt4_score".to_owned(),
        text: format!("{{\"reason\": \"\", \"score\": {score}}}"),
        ..RecordedReply::default()
    }
}

/// The value over two samples with the first judge's replies; the second has none, so that what it knows is cached.
fn value(cache: ReplyCache, options: JudgingOptions, replies: &[RecordedReply]) -> Option<f64> {
    let judge = RecordedJudge::new("r", replies.to_vec());
    let judging = Judging::new(Arc::new(judge), Arc::new(cache), options).unwrap();
    let pairs = [Pair::new("1", "a", "b"), Pair::new("2", "a", "b")];
    Gpt4Score::new(judging).unwrap().measure(&pairs).unwrap()[0].value()
}

fn skip() -> JudgingOptions {
    JudgingOptions { on_failure: OnFailure::Skip, ..JudgingOptions::default() }
}

#[test]
fn a_reply_is_found_only_under_everything_it_depends_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.jsonl");
    let replies = [reply("1", 2), reply("2", 4)];
    assert_eq!(value(ReplyCache::open(&path).unwrap(), skip(), &replies), Some(3.0));
    let asks_again = |options| value(ReplyCache::open(&path).unwrap(), options, &replies);
    let before = ReplyCache::open(&path).unwrap().len();
    assert_eq!(before, 2);
    assert_eq!(asks_again(skip()), Some(3.0));
    assert_eq!(ReplyCache::open(&path).unwrap().len(), before, "the same questions");
    for options in [
        JudgingOptions { temperature: Some(0.5), ..skip() },
        JudgingOptions { temperature: None, ..skip() },
        JudgingOptions { max_tokens: 100, ..skip() },
        JudgingOptions { seed: Some(1), ..skip() },
    ] {
        let before = ReplyCache::open(&path).unwrap().len();
        asks_again(options.clone());
        assert_eq!(ReplyCache::open(&path).unwrap().len(), before + 2, "{options:?}");
    }
    // Another judge: the digest of its replies is part of who it is.
    let before = ReplyCache::open(&path).unwrap().len();
    assert_eq!(value(ReplyCache::open(&path).unwrap(), skip(), &[reply("1", 9), reply("2", 9)]), Some(9.0));
    assert_eq!(ReplyCache::open(&path).unwrap().len(), before + 2);
}

#[test]
fn a_line_cut_by_a_crash_is_left_out_and_the_file_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.jsonl");
    value(ReplyCache::open(&path).unwrap(), skip(), &[reply("1", 2), reply("2", 4)]);
    let whole = fs::read(&path).unwrap();
    let first_line = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for cut in first_line + 1..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let cache = ReplyCache::open(&path).unwrap();
        let torn = cache.torn_line().unwrap();
        assert_eq!((torn.line, torn.bytes, cache.len()), (2, cut - first_line, 1));
    }
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    let replies = [reply("1", 2), reply("2", 4)];
    assert_eq!(value(ReplyCache::open(&path).unwrap(), skip(), &replies), Some(3.0));
    assert!(ReplyCache::open(&path).unwrap().torn_line().is_none());
    assert_eq!(ReplyCache::open(&path).unwrap().len(), 2);
}

#[test]
fn a_file_that_is_no_cache_is_refused_and_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.json");
    for contents in ["[{\"instruction\": \"a\"}]", "one line of text", "{\"id\": \"1\"}"] {
        fs::write(&path, contents).unwrap();
        let error = ReplyCache::open(&path).unwrap_err();
        assert!(matches!(&error, Error::Line { line: 1, .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), contents);
    }
}

#[test]
fn a_cut_line_stays_until_something_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.jsonl");
    value(ReplyCache::open(&path).unwrap(), skip(), &[reply("1", 2), reply("2", 4)]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    assert!(ReplyCache::open(&path).unwrap().torn_line().is_some());
    assert_eq!(fs::read(&path).unwrap(), &whole[..whole.len() - 9]);
}

#[test]
fn damage_before_the_last_line_is_an_error_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.jsonl");
    fs::write(
        &path,
        "{\"key\": \"a\", \"value\": 1}\n{\"key\": \"b\", \"val\n{\"key\": \"c\", \"value\": 1}\n",
    )
    .unwrap();
    match ReplyCache::open(&path).unwrap_err() {
        Error::Line { line: 2, problem: LineProblem::NotACacheEntry { .. }, .. } => {}
        other => panic!("{other}"),
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none/c.jsonl");
    let error = ReplyCache::open(&path).unwrap_err();
    assert!(matches!(&error, Error::MissingFolder { folder, .. } if folder.ends_with("none")), "{error}");
}

#[test]
fn a_file_has_one_owner_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.jsonl");
    let owner = ReplyCache::open(&path).unwrap();
    assert!(matches!(ReplyCache::open(&path).unwrap_err(), Error::CacheInUse { .. }));
    drop(owner);
    ReplyCache::open(&path).unwrap();
}

#[test]
fn threads_that_write_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.jsonl");
    let cache = Arc::new(ReplyCache::open(&path).unwrap());
    thread::scope(|scope| {
        for thread in 0..4 {
            let cache = Arc::clone(&cache);
            scope.spawn(move || {
                let ids: Vec<String> = (0..10).map(|i| format!("{thread}-{i}")).collect();
                let judge = RecordedJudge::new(format!("r{thread}"), ids.iter().map(|id| reply(id, 5)));
                let judging = Judging::new(Arc::new(judge), cache, skip()).unwrap();
                let pairs: Vec<Pair> = ids.iter().map(|id| Pair::new(id, "a", "b")).collect();
                Gpt4Score::new(judging).unwrap().measure(&pairs).unwrap();
            });
        }
    });
    assert_eq!(cache.len(), 40);
    drop(cache);
    let again = ReplyCache::open(&path).unwrap();
    assert_eq!((again.len(), again.torn_line()), (40, None));
}

#[test]
fn recorded_replies_are_read_from_a_file_and_given_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replies.jsonl");
    fs::write(&path, "{\"sample\": \"1\", \"purpose\": \"gpt4_score\", \"text\": \"[[7]]\"}\n\n").unwrap();
    let judge = RecordedJudge::from_file(&path).unwrap();
    let judging = Judging::new(Arc::new(judge), Arc::new(ReplyCache::in_memory()), skip()).unwrap();
    let pairs = [Pair::new("1", "a", "b"), Pair::new("2", "a", "b")];
    let measurement = Gpt4Score::new(judging).unwrap().measure(&pairs).unwrap().remove(0);
    assert_eq!(measurement.samples[0].score, Ok(7.0));
    let failure = measurement.samples[1].score.clone().unwrap_err();
    assert!(
        failure.detail.contains("no further recorded reply to `gpt4_score` about sample `2`"),
        "{failure}"
    );
    for (text, line) in [("{\"sample\": \"1\"}\n", 1), ("\n\nprose\n", 3)] {
        fs::write(&path, text).unwrap();
        assert!(
            matches!(RecordedJudge::from_file(&path).unwrap_err(), Error::Line { line: l, .. } if l == line)
        );
    }
    fs::write(&path, "\n").unwrap();
    assert!(matches!(RecordedJudge::from_file(&path).unwrap_err(), Error::NoRecords { .. }));
}
