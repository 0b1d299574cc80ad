//! Which samples go into which step, and how they are laid side by side.

use ferrotune_core::Sample;

use crate::{Error, shuffle};

/// What happens to samples that do not fill a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastBatch {
    /// They form a smaller batch at the end of the epoch.
    #[default]
    Keep,
    /// They are left out of this epoch.
    Drop,
}

/// How many batches' worth of samples are sorted by length together. Larger means less padding and less
/// chance; transformers' length-grouped sampler uses the same number.
const MEGABATCH: usize = 50;

/// The training batches of one epoch: positions into `lengths`, each exactly once unless the last batch is
/// dropped.
///
/// Samples of similar length stand together to save padding, yet the order is random: a permutation drawn
/// from `(seed, epoch)` is cut into pieces of 50 batches (fewer for small sets, so that there are at least
/// four pieces), each piece is sorted by length, longest first, and cut into batches, and the order of all
/// full batches is drawn again. The batch with the longest sample comes first, so that a step too large for
/// the device's memory fails at once.
///
/// A pure function of its arguments: a resumed run computes the same plan and goes on at its step.
///
/// # Errors
/// `batch_size` is 0.
///
/// ```
/// use ferrotune_core::Sample;
/// use ferrotune_data::{Batch, LastBatch, batches};
/// let sample = |length: u32| Sample { ids: (1..=length).collect(), supervised: vec![true; length as usize], truncated: false };
/// let samples = [sample(3), sample(9), sample(4), sample(8), sample(2)];
/// let lengths: Vec<usize> = samples.iter().map(Sample::len).collect();
/// let plan = batches(&lengths, 2, 42, 0, LastBatch::Keep)?;
/// assert_eq!(plan.len(), 3); // two full batches, and one of what is left
/// let first = Batch::new(plan[0].iter().map(|&at| &samples[at]), 0);
/// assert_eq!((first.rows, first.columns), (2, lengths[plan[0][0]]));
/// # Ok::<(), ferrotune_data::Error>(())
/// ```
pub fn batches(
    lengths: &[usize],
    batch_size: usize,
    seed: u64,
    epoch: u64,
    last: LastBatch,
) -> Result<Vec<Vec<usize>>, Error> {
    check_batch_size(batch_size)?;
    let mut order = shuffle::permutation(lengths.len(), "epoch", &[seed, epoch]);
    let batches_per_piece = (lengths.len() / batch_size.saturating_mul(4)).clamp(1, MEGABATCH);
    // Sorting whole pieces keeps the odd samples out at the end, so they are set aside before.
    let rest = order.split_off(lengths.len() / batch_size * batch_size);
    let mut plan = Vec::with_capacity(order.len() / batch_size + 1);
    for piece in order.chunks_mut(batches_per_piece.saturating_mul(batch_size)) {
        piece.sort_by_key(|&sample| std::cmp::Reverse(lengths[sample]));
        plan.extend(piece.chunks(batch_size).map(<[usize]>::to_vec));
    }
    let mut plan: Vec<Vec<usize>> = shuffle::permutation(plan.len(), "batches", &[seed, epoch])
        .into_iter()
        .map(|batch| std::mem::take(&mut plan[batch]))
        .collect();
    let longest = |batch: &Vec<usize>| batch.iter().map(|&sample| lengths[sample]).max();
    if let Some(first) = (0..plan.len()).rev().max_by_key(|&batch| longest(&plan[batch])) {
        plan.swap(0, first);
    }
    if !rest.is_empty() && last == LastBatch::Keep {
        plan.push(rest);
    }
    Ok(plan)
}

/// Batches for evaluation: every position exactly once, longest first, the same on every call.
///
/// # Errors
/// `batch_size` is 0.
pub fn evaluation_batches(lengths: &[usize], batch_size: usize) -> Result<Vec<Vec<usize>>, Error> {
    check_batch_size(batch_size)?;
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&sample| std::cmp::Reverse(lengths[sample]));
    Ok(order.chunks(batch_size).map(<[usize]>::to_vec).collect())
}

fn check_batch_size(batch_size: usize) -> Result<(), Error> {
    if batch_size == 0 {
        return Err(Error::Setting {
            setting: "batch_size",
            found: "0".to_owned(),
            expected: "at least 1".to_owned(),
        });
    }
    Ok(())
}

/// Samples side by side, padded on the right to the longest; plain vectors in row-major order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number of samples, `b`.
    pub rows: usize,
    /// Length of the longest sample, `t`.
    pub columns: usize,
    /// Token ids, `[b, t]`; the fill id beyond a sample's length.
    pub ids: Vec<i64>,
    /// Which ids are targets, `[b, t]`; false beyond a sample's length and at position 0.
    pub supervised: Vec<bool>,
    /// True lengths, `[b]`: what attention and loss are masked by, since the fill id may be a real token's.
    pub lengths: Vec<i64>,
}

impl Batch {
    /// Lays samples side by side; `fill` stands beyond their ends and may be any id of the vocabulary.
    #[must_use]
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Sample>, fill: u32) -> Self {
        let samples: Vec<&Sample> = samples.into_iter().collect();
        let (rows, columns) = (samples.len(), samples.iter().map(|sample| sample.len()).max().unwrap_or(0));
        let mut batch = Self {
            rows,
            columns,
            ids: Vec::with_capacity(rows * columns),
            supervised: Vec::with_capacity(rows * columns),
            lengths: Vec::with_capacity(rows),
        };
        for sample in samples {
            batch.lengths.push(sample.len() as i64);
            batch.ids.extend(sample.ids.iter().map(|&id| i64::from(id)));
            batch.supervised.extend(sample.supervised.iter().enumerate().map(|(at, &is)| is && at > 0));
            batch.ids.resize(batch.lengths.len() * columns, i64::from(fill));
            batch.supervised.resize(batch.ids.len(), false);
        }
        batch
    }

    /// Ids that are not padding.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum::<i64>() as usize
    }

    /// Ids whose prediction counts towards the loss: what gradient accumulation divides by.
    #[must_use]
    pub fn supervised_tokens(&self) -> usize {
        self.supervised.iter().filter(|&&is| is).count()
    }
}
