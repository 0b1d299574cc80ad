//! Instruction data for one or several models: read once, encoded for each tokenizer, split the same for all.

use std::path::PathBuf;

use ferrotune_core::Sample;
use ferrotune_data::{
    FileReport, Format, LastBatch, Limits, Prepared, Progress, Record, Split, SplitSizes, Strictness,
    Template, Tokenizer, batches, evaluation_batches, kept_by_all, prepare, read_files, split,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which files are read and how records are dealt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Files whose records are dealt by [`split`](Self::split).
    pub files: Vec<PathBuf>,
    /// Files whose records all train; for data that comes divided. Not together with `files`.
    pub train: Vec<PathBuf>,
    /// Files whose records all validate.
    pub validation: Vec<PathBuf>,
    /// Files whose records are all held out.
    pub test: Vec<PathBuf>,
    /// `auto`, `alpaca`, `instruct-v3` or `messages`.
    pub format: Format,
    /// Whether a bad record is an error instead of being counted.
    pub strict: bool,
    /// How `files` are dealt.
    pub split: SplitSizes,
    /// Seeds the split.
    pub split_seed: u64,
    /// The most ids of a sample; the model's positions, if fewer.
    pub max_seq_length: usize,
    /// Records are used only if each request has fewer tokens than this.
    pub max_request_tokens: usize,
    /// Whether records are validated and measured on although they ask what one that trains (or an earlier one of these)
    /// asks; otherwise they are set aside, counted.
    pub keep_repeats: bool,
    /// At most this many of the training records, taken in the order of the split.
    pub max_train_records: Option<usize>,
    /// Folder of the tokenization cache; none where absent.
    pub cache: Option<PathBuf>,
}

impl Default for DataConfig {
    fn default() -> Self {
        let Limits { max_seq_length, max_request_tokens } = Limits::default();
        Self {
            files: Vec::new(),
            train: Vec::new(),
            validation: Vec::new(),
            test: Vec::new(),
            format: Format::Auto,
            strict: false,
            split: SplitSizes::Fractions { train: 0.8, validation: 0.1, test: 0.1 },
            split_seed: 42,
            keep_repeats: false,
            max_seq_length,
            max_request_tokens,
            max_train_records: None,
            cache: None,
        }
    }
}

/// Records, and the parts that they are dealt into.
#[derive(Debug)]
pub struct Instructions {
    config: DataConfig,
    /// All records that were read.
    pub records: Vec<Record>,
    /// What became of each file's records.
    pub reports: Vec<FileReport>,
    /// How many of `records` came from `train` and `validation` files, where data come divided.
    divided: Option<(usize, usize)>,
}

/// One model's samples of the parts.
#[derive(Debug)]
pub struct Parts {
    /// Training samples.
    pub train: Vec<Sample>,
    /// Positions of their records.
    pub train_records: Vec<usize>,
    /// Validation samples.
    pub validation: Vec<Sample>,
    /// Positions of their records.
    pub validation_records: Vec<usize>,
    /// Held-out samples.
    pub test: Vec<Sample>,
    /// Positions of their records.
    pub test_records: Vec<usize>,
}

impl Instructions {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Setting`] if no file is named, or if both ways of naming them are mixed; what reading gives.
    pub fn read(config: DataConfig) -> Result<Self> {
        let setting = |setting: &'static str, found: &str, expected: &str| Error::Setting {
            setting: setting.into(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        let strictness = if config.strict { Strictness::Strict } else { Strictness::Lenient };
        if config.files.is_empty() && config.train.is_empty() {
            return Err(setting("data.files", "empty", "at least one data file"));
        }
        if config.files.is_empty() {
            let (mut records, mut reports) = read_files(&config.train, config.format, strictness)?;
            let train = records.len();
            let (more, more_reports) = read_files(&config.validation, config.format, strictness)?;
            let validation = more.len();
            records.extend(more);
            reports.extend(more_reports);
            let (more, more_reports) = read_files(&config.test, config.format, strictness)?;
            records.extend(more);
            reports.extend(more_reports);
            refuse_repeats(&reports)?;
            return Ok(Self { config, records, reports, divided: Some((train, validation)) });
        }
        if !(config.train.is_empty() && config.validation.is_empty() && config.test.is_empty()) {
            let expected = "absent where data.files is given: either files are dealt, or they come divided";
            return Err(setting("data.train, data.validation, data.test", "present", expected));
        }
        let (records, reports) = read_files(&config.files, config.format, strictness)?;
        refuse_repeats(&reports)?;
        Ok(Self { config, records, reports, divided: None })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &DataConfig {
        &self.config
    }

    /// Encodes all records, written in a template, for a model with this many positions.
    ///
    /// # Errors
    /// What encoding gives.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        template: &Template,
        max_positions: i64,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Prepared> {
        let limits = Limits {
            max_seq_length: self.config.max_seq_length.min(max_positions as usize),
            max_request_tokens: self.config.max_request_tokens,
        };
        Ok(prepare(&self.records, tokenizer, template, &limits, self.config.cache.as_deref(), progress)?)
    }

    /// Deals the records that every encoding kept, so that models which are compared see the same ones. Positions are
    /// of [`records`](Self::records). Records that [repeat](Split::set_repeats_aside) what trains are set aside unless
    /// [`keep_repeats`](DataConfig::keep_repeats) says otherwise; held-out conversations of several turns that an encoding
    /// cut are left unused.
    ///
    /// # Errors
    /// More records asked for than there are.
    pub fn deal(&self, encodings: &[&Prepared]) -> Result<Split> {
        let usable = kept_by_all(encodings);
        let mut dealt = match self.divided {
            Some((train, validation)) => {
                let mut dealt = Split::default();
                for record in usable {
                    if record < train {
                        dealt.train.push(record);
                    } else if record < train + validation {
                        dealt.validation.push(record);
                    } else {
                        dealt.test.push(record);
                    }
                }
                dealt
            }
            None => {
                let dealt = split(usable.len(), self.config.split, self.config.split_seed)?;
                let place = |part: Vec<usize>| part.into_iter().map(|position| usable[position]).collect();
                Split {
                    train: place(dealt.train),
                    validation: place(dealt.validation),
                    test: place(dealt.test),
                    repeated: place(dealt.repeated),
                    unused: place(dealt.unused),
                }
            }
        };
        // Before the training part is cut, so that models trained on more or fewer records are measured on the same ones.
        if !self.config.keep_repeats {
            dealt.set_repeats_aside(&self.records);
        }
        // The last request of a conversation that was cut need not fit; what cannot be asked whole is not asked.
        let whole = |record: &usize| {
            let kept_whole =
                |encoding: &&Prepared| encoding.sample_of(*record).is_some_and(|sample| !sample.truncated);
            self.records[*record].turns.len() < 2 || encodings.iter().all(kept_whole)
        };
        let (asked, cut): (Vec<usize>, Vec<usize>) = dealt.test.into_iter().partition(whole);
        dealt.test = asked;
        dealt.unused.extend(cut);
        if let Some(most) = self.config.max_train_records
            && most < dealt.train.len()
        {
            let cut = dealt.train.split_off(most);
            dealt.unused.extend(cut);
        }
        Ok(dealt)
    }
}

impl Parts {
    /// The samples of a split under one encoding, which must have kept all its records.
    #[must_use]
    pub fn new(encoding: &Prepared, split: &Split) -> Self {
        let part = |records: &[usize]| -> (Vec<Sample>, Vec<usize>) {
            records.iter().filter_map(|&record| Some((encoding.sample_of(record)?.clone(), record))).unzip()
        };
        let (train, train_records) = part(&split.train);
        let (validation, validation_records) = part(&split.validation);
        let (test, test_records) = part(&split.test);
        Self { train, train_records, validation, validation_records, test, test_records }
    }
}

/// Refuses a file that is given twice, under whatever name: what trains must not also be measured, and no record
/// should count double.
fn refuse_repeats(reports: &[FileReport]) -> Result<()> {
    for (index, report) in reports.iter().enumerate() {
        if let Some(other) = reports[..index].iter().find(|other| other.sha256 == report.sha256) {
            let (first, second) = (other.path.display(), report.path.display());
            return Err(Error::Setting {
                setting: "data".into(),
                found: format!("`{first}` and `{second}`, which hold the same bytes"),
                expected:
                    "each file once, since its records would be trained on twice or trained on and measured"
                        .to_owned(),
            });
        }
    }
    Ok(())
}

/// The batches of an epoch for samples of these lengths; a pure function, so that a resumed run can ask again.
pub fn training_plan(
    lengths: Vec<usize>,
    batch_size: usize,
    seed: u64,
) -> impl Fn(u64) -> Result<Vec<Vec<usize>>, ferrotune_core::BoxError> {
    move |epoch| Ok(batches(&lengths, batch_size, seed, epoch, LastBatch::Keep)?)
}

/// The batches of an evaluation, each sample once.
pub fn evaluation_plan(
    lengths: Vec<usize>,
    batch_size: usize,
) -> impl Fn(u64) -> Result<Vec<Vec<usize>>, ferrotune_core::BoxError> {
    move |_| Ok(evaluation_batches(&lengths, batch_size)?)
}

#[cfg(test)]
mod tests {
    use ferrotune_core::Sample;
    use ferrotune_data::{Prepared, Record, Turn};

    use super::{DataConfig, Instructions};

    #[test]
    fn a_held_out_conversation_that_was_cut_is_not_asked() {
        let turn = || Turn { request: "q".into(), response: "a".into() };
        let mut records: Vec<Record> = (0..4).map(|row| Record::new(format!("q{row}"), "a", row)).collect();
        records[1].turns.push(turn());
        records[2].turns.push(turn());
        let sample = |truncated| Sample { ids: vec![1, 2], supervised: vec![false, true], truncated };
        let encoding = Prepared {
            samples: vec![sample(true), sample(true), sample(false), sample(true)],
            records: vec![0, 1, 2, 3],
            report: ferrotune_data::PrepareReport::default(),
        };
        let config = DataConfig::default();
        let instructions = Instructions { config, records, reports: Vec::new(), divided: Some((0, 0)) };
        let split = instructions.deal(&[&encoding]).unwrap();
        assert_eq!((split.test, split.unused), (vec![0, 2, 3], vec![1]));
    }

    #[test]
    fn a_request_that_trains_is_measured_only_where_the_user_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (train, test) = (folder.path().join("train.json"), folder.path().join("test.json"));
        std::fs::write(&train, r#"[{"instruction": "Say it.", "output": "It."}]"#).unwrap();
        let held_out =
            r#"[{"instruction": "say  it.", "output": "It!"}, {"instruction": "Sing it.", "output": "La."}]"#;
        std::fs::write(&test, held_out).unwrap();
        let sample = Sample { ids: vec![1, 2], supervised: vec![false, true], truncated: false };
        let encoding = Prepared {
            samples: vec![sample; 3],
            records: vec![0, 1, 2],
            report: ferrotune_data::PrepareReport::default(),
        };
        for (keep_repeats, test_part, repeated) in [(false, vec![2], vec![1]), (true, vec![1, 2], vec![])] {
            let (train, test) = (vec![train.clone()], vec![test.clone()]);
            let config =
                DataConfig { train, test, keep_repeats, max_train_records: Some(0), ..DataConfig::default() };
            let split = Instructions::read(config).unwrap().deal(&[&encoding]).unwrap();
            assert_eq!((split.test, split.repeated), (test_part, repeated), "{keep_repeats}");
        }
    }

    #[test]
    fn a_file_given_twice_is_refused_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a.json"), folder.path().join("b.json"));
        let records = r#"[{"instruction": "Say it.", "output": "It."}]"#;
        std::fs::write(&first, records).unwrap();
        std::fs::write(&second, records).unwrap();
        for config in [
            DataConfig { files: vec![first.clone(), first.clone()], ..DataConfig::default() },
            DataConfig { train: vec![first.clone()], test: vec![second.clone()], ..DataConfig::default() },
        ] {
            let message = Instructions::read(config).unwrap_err().to_string();
            assert!(
                message.contains("hold the same bytes") && message.contains("each file once"),
                "{message}"
            );
        }
        let once = DataConfig { train: vec![first], ..DataConfig::default() };
        assert_eq!(Instructions::read(once).unwrap().records.len(), 1);
    }
}
