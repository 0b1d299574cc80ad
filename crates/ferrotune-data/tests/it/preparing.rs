//! Preparing a list of records: order, counts, progress, and a cache that is never trusted blindly.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use ferrotune_core::{BoxError, Encoding, SpecialTokens, Tokenize};
use ferrotune_data::{
    CacheUse, Encoded, Limits, Prepared, Progress, Record, Template, Tokenizer, encode, kept_by_all, prepare,
};

use crate::inputs::sentencepiece;

/// Ten records: number 3 has a request that is too long, number 7 a prompt that leaves no room for its
/// answer, number 8 an answer that is cut.
fn records() -> Vec<Record> {
    let mut records: Vec<Record> =
        (0..10).map(|row| Record::new(format!("Count to {row}."), "One, two.", row)).collect();
    records[3].turns[0].request = "9".repeat(300);
    records[7].turns[0].request = "8".repeat(200);
    records[8].turns[0].response = "and ".repeat(200);
    records
}

const LIMITS: Limits = Limits { max_seq_length: 150, max_request_tokens: 256 };

fn quiet(_: Progress) {}

fn run(cache: Option<&Path>) -> Prepared {
    prepare(&records(), &sentencepiece(), &Template::Study, &LIMITS, cache, &quiet).unwrap()
}

#[test]
fn samples_come_in_record_order_and_everything_is_counted() {
    let prepared = run(None);
    assert_eq!(prepared.records, [0, 1, 2, 4, 5, 6, 8, 9]);
    let tokenizer = sentencepiece();
    for (sample, &record) in prepared.samples.iter().zip(&prepared.records) {
        assert_eq!(encode(&records()[record], &tokenizer, &LIMITS).unwrap(), Encoded::Kept(sample.clone()));
        assert_eq!(prepared.sample_of(record), Some(sample));
    }
    assert_eq!(prepared.sample_of(3), None);
    let report = &prepared.report;
    let total = report.total;
    assert_eq!((total.records, total.kept, total.request_too_long, total.nothing_supervised), (10, 8, 1, 1));
    assert_eq!(total.truncated, 1);
    assert_eq!(total.tokens, prepared.lengths().iter().sum::<usize>() as u64);
    let supervised: usize = prepared.samples.iter().map(|sample| sample.supervised_tokens()).sum();
    assert_eq!(total.supervised_tokens, supervised as u64);
    assert_eq!(report.files.len(), 1);
    assert_eq!(report.files[Path::new("memory")], total);
    assert_eq!(report.cache, CacheUse::Off);
    let written = serde_json::to_string(report).unwrap();
    assert_eq!(serde_json::from_str::<ferrotune_data::PrepareReport>(&written).unwrap(), *report);
}

#[test]
fn progress_ends_at_the_total() {
    let seen = Mutex::new(Vec::new());
    prepare(&records(), &sentencepiece(), &Template::Study, &LIMITS, None, &|progress| {
        seen.lock().unwrap().push(progress)
    })
    .unwrap();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.last(), Some(&Progress { done: 10, total: 10 }));
    assert!(seen.iter().all(|progress| progress.total == 10 && progress.done <= 10));
}

/// Counts how often the tokenizer behind it is asked.
struct Counting(Tokenizer, AtomicUsize);

impl Tokenize for Counting {
    fn encode(&self, text: &str) -> Result<Encoding, BoxError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.encode(text)
    }
    fn encode_markup(&self, text: &str) -> Result<Encoding, BoxError> {
        self.0.encode_markup(text)
    }
    fn decode(&self, ids: &[u32]) -> Result<String, BoxError> {
        self.0.decode(ids)
    }
    fn special(&self) -> &SpecialTokens {
        self.0.special()
    }
    fn vocabulary_size(&self) -> usize {
        self.0.vocabulary_size()
    }
    fn fingerprint(&self) -> &str {
        self.0.fingerprint()
    }
}

#[test]
fn a_cache_gives_the_same_samples_without_tokenizing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("made").join("here");
    let without = run(None);
    let first = run(Some(&cache));
    let CacheUse::Written { file } = &first.report.cache else { panic!("{:?}", first.report.cache) };
    assert!(file.starts_with(&cache) && file.is_file());
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "a temporary file was left");

    let tokenizer = Counting(sentencepiece(), AtomicUsize::new(0));
    let second = prepare(&records(), &tokenizer, &Template::Study, &LIMITS, Some(&cache), &quiet).unwrap();
    assert_eq!(tokenizer.1.load(Ordering::Relaxed), 0);
    assert_eq!(second.report.cache, CacheUse::Read { file: file.clone() });
    for with in [first, second] {
        assert_eq!((&with.samples, &with.records), (&without.samples, &without.records));
        assert_eq!(with.report.total, without.report.total);
    }
}

#[test]
fn whatever_changes_the_samples_changes_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let base = records();
    let mut shorter = base.clone();
    shorter.pop();
    let mut shifted = base.clone();
    // The same bytes in a row, divided otherwise.
    shifted[0].turns[0].request.push_str("One");
    shifted[0].turns[0].response = ", two.".to_owned();
    let mut with_system = base.clone();
    with_system[1].system = Some(String::new());
    let mut unframed = base.clone();
    unframed[1].preamble = ferrotune_data::Preamble::Omitted;
    for (made, list) in [&base, &shorter, &shifted, &with_system, &unframed].into_iter().enumerate() {
        prepare(list, &sentencepiece(), &Template::Study, &LIMITS, Some(folder.path()), &quiet).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), made + 1);
    }
    for limits in [Limits { max_seq_length: 151, ..LIMITS }, Limits { max_request_tokens: 255, ..LIMITS }] {
        prepare(&base, &sentencepiece(), &Template::Study, &limits, Some(folder.path()), &quiet).unwrap();
    }
    prepare(&base, &crate::inputs::byte_level(), &Template::Study, &LIMITS, Some(folder.path()), &quiet)
        .unwrap();
    let turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}";
    let chat = ferrotune_data::ChatTemplate::new(turns, std::collections::BTreeMap::new()).unwrap();
    let chat = Template::Chat(std::sync::Arc::new(chat));
    prepare(&base, &sentencepiece(), &chat, &LIMITS, Some(folder.path()), &quiet).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 9);
}

#[test]
fn a_damaged_cache_is_rebuilt_wherever_the_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let first = run(Some(folder.path()));
    let CacheUse::Written { file } = first.report.cache else { panic!("{:?}", first.report.cache) };
    let good = fs::read(&file).unwrap();
    let flip = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged = [
        Vec::new(),
        good[..10].to_vec(),
        good[..good.len() - 1].to_vec(),
        good[..good.len() / 2].to_vec(),
        flip(0),
        flip(20),
        flip(good.len() / 2),
        flip(good.len() - 1),
        [&good[..], b"x"].concat(),
    ];
    for bytes in damaged {
        fs::write(&file, &bytes).unwrap();
        let again = run(Some(folder.path()));
        assert!(matches!(again.report.cache, CacheUse::Rebuilt { .. }), "{:?}", again.report.cache);
        assert_eq!(again.samples, first.samples);
        assert_eq!(fs::read(&file).unwrap(), good);
    }
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_warning_only() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("file");
    fs::write(&occupied, "x").unwrap();
    let prepared = run(Some(&occupied));
    assert!(matches!(prepared.report.cache, CacheUse::NotWritten { .. }), "{:?}", prepared.report.cache);
    assert_eq!(prepared.samples.len(), 8);
}

#[test]
fn records_kept_under_every_tokenizer_are_the_common_ones() {
    let strict = Limits { max_request_tokens: 6, ..LIMITS };
    let (loose, tight) =
        (run(None), prepare(&records(), &sentencepiece(), &Template::Study, &strict, None, &quiet).unwrap());
    assert_eq!(kept_by_all(&[&loose]), loose.records);
    let common = kept_by_all(&[&loose, &tight]);
    assert!(
        common.iter().all(|&record| loose.sample_of(record).is_some() && tight.sample_of(record).is_some())
    );
    assert_eq!(kept_by_all(&[&tight, &loose]), common);
    assert!(kept_by_all(&[]).is_empty());
}
