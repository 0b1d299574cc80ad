//! The way through a study: read, encode, and for each model measure, fine-tune, measure.

use std::{
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ferrotune_data::{Prepared as Encoding, Record as DataRecord, Split};
use ferrotune_trainer::{Listener, Resume};
use tch::{Device, Kind};

use super::{
    Environment, Study, StudyEstimate, StudyResults, bench::Bench, comparisons, done::Done, environment,
    gather, identity::Identity, opened::Opened,
};
use crate::{Error, Instructions, Measure, Progress, Result, report};

/// The folder of a model's first state.
const BASE: &str = "base";

/// Where the built-in study grows its models in an output folder, before it is a study.
const BUILTIN: &str = "builtin";

/// Hears how a study goes on; implementors provide all three methods.
pub trait Interaction {
    /// A stage begins, or something should be said aloud; one line.
    fn say(&mut self, line: &str);

    /// The measurement of a model in one of its states has come so far. Called often: see [`Progress::is_step`].
    fn progress(&mut self, subject: &str, progress: &Progress<'_>);

    /// Who listens to the next training run besides the study's own logs.
    fn listener(&mut self) -> Option<&mut dyn Listener>;
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Interaction for Silent {
    fn say(&mut self, _line: &str) {}

    fn progress(&mut self, _subject: &str, _progress: &Progress<'_>) {}

    fn listener(&mut self) -> Option<&mut dyn Listener> {
        None
    }
}

/// A study whose models, files, metrics and benchmarks are open, so that what can be refused has been.
#[derive(Debug)]
pub struct Prepared<'s> {
    pub(super) study: &'s Study,
    start: Instant,
    measure: Measure,
    pub(super) instructions: Instructions,
    pub(super) contestants: Vec<Opened<'s>>,
    split: Split,
    pub(super) device: Device,
    pub(super) kind: Kind,
}

impl Study {
    /// Opens every model, file, metric and benchmark of the study, tries the isolation of benchmarks that run code, and
    /// loads a local judge. Nothing is written but a new judge's cache, and nobody is asked anything.
    ///
    /// # Errors
    /// As [`validate`](Self::validate); what reading and encoding give.
    pub fn prepare(&self, interaction: &mut dyn Interaction) -> Result<Prepared<'_>> {
        self.validate()?;
        let start = Instant::now();
        let (device, kind) = self.compute.resolve()?;
        let measure = Measure::new(self.evaluation.clone(), self.data.split_seed, (device, kind))?;
        for benchmark in measure.benchmarks() {
            interaction.say(&format!(
                "{}: {} of {} documents are asked about",
                benchmark.config.name,
                benchmark.documents(),
                benchmark.task.len()
            ));
        }
        let instructions = Instructions::read(self.data.clone())?;
        for report in &instructions.reports {
            let name = report.path.display();
            interaction.say(&format!("{name}: {} records kept, {} dropped", report.kept, report.dropped));
        }
        let contestants = self
            .models
            .iter()
            .map(|model| Opened::open(model, &instructions, &measure, interaction))
            .collect::<Result<Vec<_>>>()?;
        let encodings: Vec<&Encoding> = contestants.iter().map(|contestant| &contestant.encoding).collect();
        let split = instructions.deal(&encodings)?;
        interaction.say(&format!(
            "{} records train, {} validate, {} are held out, {} are set aside as repeats, {} unused",
            split.train.len(),
            split.validation.len(),
            split.test.len(),
            split.repeated.len(),
            split.unused.len()
        ));
        for (part, what) in [(&split.train, "records that train"), (&split.test, "held-out records")] {
            if part.is_empty() {
                let (setting, found) = ("data.split".into(), format!("one that leaves no {what}"));
                let expected = format!("at least one of the {what}");
                return Err(Error::Setting { setting, found, expected });
            }
        }
        Ok(Prepared { study: self, start, measure, instructions, contestants, split, device, kind })
    }
}

impl Prepared<'_> {
    /// Runs the study into the folder `output`, which must exist: adapters, checkpoints, logs and per-sample files of each
    /// run go below it, in place of those of a former study, whose report is removed first. Writing the report is the caller's, with
    /// [`report::write`](crate::report::write).
    ///
    /// With [`Resume::Newest`] it goes on with the study that an earlier process began there: what is complete and as it was is
    /// not done again, a fine-tuning goes on after its newest checkpoint. Times apart, and what judges without a cache
    /// are paid, the results are those of a study that was never interrupted.
    ///
    /// # Errors
    /// What training and measuring give. [`OtherRun`](ferrotune_trainer::Error::OtherRun) with the first setting or input that
    /// is not what the interrupted study had, [`Error::NotResumable`], and [`Error::OutputTaken`] where a file that the study
    /// reads, or a folder that no study wrote, would be replaced; all before anything is changed.
    pub fn run(
        &self,
        output: &Path,
        resume: Resume,
        interaction: &mut dyn Interaction,
    ) -> Result<StudyResults> {
        let Self { study, measure, instructions, contestants, split, device, kind, .. } = self;
        let (device, kind) = (*device, *kind);
        self.claim(output, resume, interaction)?;
        let (mut models, mut evaluated) = (Vec::with_capacity(contestants.len()), Vec::new());
        let mut earlier = 0.0;
        for contestant in contestants {
            let bench = Bench { study, output, contestant, measure, instructions, split, device, kind };
            let (results, seconds) = bench.run(&mut evaluated, interaction)?;
            models.push(results);
            earlier += seconds;
        }
        interaction.say("comparing what was measured, record by record");
        let finished = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Ok(StudyResults {
            title: study.title.clone(),
            description: study.description.clone(),
            finished: environment::civil(finished),
            seconds: earlier + self.start.elapsed().as_secs_f64(),
            environment: Environment::detect(device, kind),
            settings: study.settings(),
            data: gather::data(instructions, split),
            benchmarks: gather::benchmarks(measure, &evaluated),
            judge: gather::judge(measure, &models, &evaluated),
            on_failure: Some(study.evaluation.on_failure),
            failures: gather::failures(&evaluated),
            models,
            comparisons: comparisons::all(&evaluated, instructions.config().split_seed)?,
        })
    }

    /// Makes the output folder this study's: empty, or with what an earlier process did of the same study.
    fn claim(&self, output: &Path, resume: Resume, interaction: &mut dyn Interaction) -> Result<()> {
        let identity = Identity::of(self)?;
        let folders = || self.contestants.iter().map(|contestant| contestant.output(output));
        self.refuse_inputs(output)?;
        if resume == Resume::Newest {
            let not_resumable = |reason: &str| {
                Err(Error::NotResumable { folder: output.to_owned(), reason: reason.to_owned() })
            };
            let judge = self.study.evaluation.judge.as_ref();
            if judge.is_some_and(|judge| judge.replies.is_some() && judge.cache.is_some()) {
                return not_resumable(
                    "its judge repeats recorded replies, and with evaluation.judge.cache beside them it is not known which \
                     were used up; they cost nothing, so leave the cache out",
                );
            }
            match Identity::read(output)? {
                Some(former) => {
                    former.check(&identity, output)?;
                    return Ok(report::remove(output)?);
                }
                None if folders().any(|folder| folder.exists()) => {
                    return not_resumable(
                        "it has no `study.json`, which says what its study was asked to do",
                    );
                }
                None if !holds_only(output, BUILTIN)? => {
                    return not_resumable("it is not empty, and has no `study.json`");
                }
                None => interaction.say(&format!("`{}` holds no study yet; beginning one", output.display())),
            }
        }
        let is_study = Identity::is_in(output);
        for folder in folders() {
            let is_own = is_study || Done::is_in(&folder.join(BASE));
            if folder.exists() && !is_own && !holds_only(&folder, "")? {
                return Err(Error::OutputTaken { path: folder, reason: "was not written by a study" });
            }
        }
        // A run that fails must not stand beside the report of a former one, nor go on with what that one did.
        report::remove(output)?;
        Identity::remove(output)?;
        for folder in folders().filter(|folder| folder.is_dir()) {
            std::fs::remove_dir_all(&folder).map_err(|source| Error::Io { path: folder, source })?;
        }
        identity.write(output)
    }

    /// Refuses an output whose report or whose models' folders are, or hold, what the study reads.
    fn refuse_inputs(&self, output: &Path) -> Result<()> {
        let replaced: Vec<PathBuf> = self
            .contestants
            .iter()
            .map(|contestant| contestant.output(output))
            .chain(report::FILES.iter().map(|name| output.join(name)))
            .filter_map(|path| path.canonicalize().ok())
            .collect();
        let mut evaluation = self.study.evaluation.clone();
        let read = evaluation
            .paths()
            .map(|path| path.clone())
            .chain(self.contestants.iter().map(|contestant| contestant.model.path.clone()))
            .chain(self.instructions.reports.iter().map(|report| report.path.clone()));
        for path in read {
            let is_replaced = |real: PathBuf| replaced.iter().any(|folder| real.starts_with(folder));
            if path.canonicalize().is_ok_and(is_replaced) {
                return Err(Error::OutputTaken { path, reason: "is read by the study" });
            }
        }
        Ok(())
    }

    /// What the study would ask, found without asking or training anything.
    #[must_use]
    pub fn estimate(&self) -> StudyEstimate {
        let Self { study, measure, instructions, split, .. } = self;
        let count = measure.count(split.test.len());
        let records: Vec<&DataRecord> =
            split.test[..count].iter().map(|&record| &instructions.records[record]).collect();
        let evaluations = study.models.len() * (1 + study.seeds.len());
        let judge = measure.estimate(&records).map(|one| {
            let mut all = one;
            (1..evaluations).for_each(|_| all += one);
            all
        });
        let documents =
            measure.benchmarks().iter().map(|one| (one.config.name.clone(), one.documents() as u64));
        StudyEstimate {
            evaluations: evaluations as u64,
            records: count as u64,
            documents: documents.collect(),
            judge,
        }
    }
}

/// Whether a folder, which may be missing, holds nothing but an entry of this name.
fn holds_only(folder: &Path, name: &str) -> Result<bool> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        if entry.map_err(io)?.file_name() != name {
            return Ok(false);
        }
    }
    Ok(true)
}
