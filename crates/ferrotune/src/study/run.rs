//! The way through a study: read, encode, and for each model measure, fine-tune, measure.

use std::{
    path::Path,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ferrotune_data::{Prepared as Encoding, Record as DataRecord, Split};
use ferrotune_trainer::Listener;
use tch::{Device, Kind};

use super::{
    Environment, Study, StudyEstimate, StudyResults, bench::Bench, comparisons, environment, gather,
    opened::Opened,
};
use crate::{Error, Instructions, Measure, Progress, Result, report};

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
    study: &'s Study,
    start: Instant,
    measure: Measure,
    instructions: Instructions,
    contestants: Vec<Opened<'s>>,
    split: Split,
    device: Device,
    kind: Kind,
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
    /// # Errors
    /// What training and measuring give.
    pub fn run(&self, output: &Path, interaction: &mut dyn Interaction) -> Result<StudyResults> {
        let Self { study, measure, instructions, contestants, split, device, kind, .. } = self;
        let (device, kind) = (*device, *kind);
        // A run that fails must not stand beside the report of a former one.
        report::remove(output)?;
        let (mut models, mut evaluated) = (Vec::with_capacity(contestants.len()), Vec::new());
        for contestant in contestants {
            let bench = Bench { study, output, contestant, measure, instructions, split, device, kind };
            models.push(bench.run(&mut evaluated, interaction)?);
        }
        interaction.say("comparing what was measured, record by record");
        let finished = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Ok(StudyResults {
            title: study.title.clone(),
            description: study.description.clone(),
            finished: environment::civil(finished),
            seconds: self.start.elapsed().as_secs_f64(),
            environment: Environment::detect(device, kind),
            settings: study.settings(),
            data: gather::data(instructions, split),
            benchmarks: gather::benchmarks(measure, &evaluated),
            judge: gather::judge(measure, &models),
            on_failure: Some(study.evaluation.on_failure),
            failures: gather::failures(&evaluated),
            models,
            comparisons: comparisons::all(&evaluated, instructions.config().split_seed)?,
        })
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
