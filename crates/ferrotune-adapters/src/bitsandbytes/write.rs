//! Quantizing a checkpoint, one tensor at a time.

use ferrotune_nn::{
    Role, WeightSource, WeightSpec, checkpoint::CheckpointWriter, decoder::IGNORED_TENSORS, weights::Layouts,
};
use tch::{Kind, Tensor};

use crate::{
    Error, Result,
    merge::check_shape,
    nf4::{Quantization, QuantizedTensor},
};

/// Weights compared at a time.
const COMPARED: i64 = 1 << 20;

/// What quantizing a checkpoint did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantized {
    /// Bytes of all tensors as they were.
    pub bytes_before: u64,
    /// Bytes of all tensors as they were written, scales and maps included.
    pub bytes_after: u64,
    /// The type of the weights that were quantized; nothing if there were none.
    pub kind: Option<Kind>,
    /// Tensors by what they are for, in the order in which the model names them first.
    pub roles: Vec<RoleCount>,
    /// Quantized matrices whose rows are no whole blocks, by name. bitsandbytes' compiled CPU backend decodes these with the
    /// scales of other blocks (`docs/nf4.md`, 7).
    pub blocks_across_rows: Vec<String>,
    /// How far the weights moved that were quantized.
    pub deviation: Deviation,
    /// The largest [`Deviation::relative`] of one tensor, and its name.
    pub worst: Option<(String, f64)>,
}

/// How many tensors of one role were quantized, and how many were left as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleCount {
    /// What they are for.
    pub role: Role,
    /// Tensors in 4 bits.
    pub quantized: usize,
    /// Tensors copied as they were.
    pub kept: usize,
}

/// How far weights moved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Number of weights.
    pub weights: u64,
    /// Largest difference.
    pub max_absolute: f64,
    sum_absolute: f64,
    sum_square: f64,
    sum_weight_square: f64,
}

impl Deviation {
    /// Mean magnitude of the difference.
    #[must_use]
    pub fn mean_absolute(&self) -> f64 {
        if self.weights == 0 { 0.0 } else { self.sum_absolute / self.weights as f64 }
    }

    /// Euclidean norm of the difference over that of the weights; 0 where all weights are 0.
    #[must_use]
    pub fn relative(&self) -> f64 {
        if self.sum_weight_square == 0.0 { 0.0 } else { (self.sum_square / self.sum_weight_square).sqrt() }
    }

    fn add(&mut self, other: &Self) {
        self.weights += other.weights;
        self.max_absolute = self.max_absolute.max(other.max_absolute);
        self.sum_absolute += other.sum_absolute;
        self.sum_square += other.sum_square;
        self.sum_weight_square += other.sum_weight_square;
    }
}

/// Whether a weight of this role goes into 4 bits: the matrices of attention, MLPs and experts.
pub(crate) fn is_quantized(spec: &WeightSpec) -> bool {
    matches!(spec.role, Role::Attention | Role::Mlp | Role::Expert) && spec.shape.len() == 2
}

/// Quantizes one weight of the checkpoint `place`.
///
/// # Errors
/// [`Error::BlockAcrossRows`] for an expert whose rows are no whole blocks, [`Error::Quantized`] with the index of a NaN or
/// infinite weight.
pub(crate) fn quantize_weight(
    spec: &WeightSpec,
    place: impl Fn() -> String,
    weight: &Tensor,
    settings: &Quantization,
) -> Result<QuantizedTensor> {
    let (columns, block_size) = (spec.shape[1], settings.block_size.get());
    if spec.role == Role::Expert && !(columns as usize).is_multiple_of(block_size) {
        return Err(Error::BlockAcrossRows { name: spec.name.clone(), place: place(), columns, block_size });
    }
    QuantizedTensor::quantize(weight, settings).map_err(|source| Error::Quantized {
        name: spec.name.clone(),
        place: place(),
        source: Box::new(source),
    })
}

/// Writes the checkpoint `source` with the matrices of attention, MLPs and experts in 4 bits; embeddings, norms, routers,
/// heads and biases stay as they are. `specs` are the model's weights; the result has their names, so experts come out
/// one matrix each.
///
/// The [`QuantizationConfig`](super::QuantizationConfig) that belongs into `config.json` is the caller's to write. At most one
/// tensor is in memory, with what it becomes.
///
/// # Errors
/// [`Error::BlockAcrossRows`]; [`Error::Quantized`] with the index of a NaN or infinite weight; [`Error::Stored`] for weights
/// that are in 4 bits already; what reading and writing give.
pub fn quantize(
    source: &dyn WeightSource,
    specs: &[WeightSpec],
    settings: &Quantization,
    writer: &mut CheckpointWriter,
) -> Result<Quantized> {
    let source = Layouts::new(source, specs, IGNORED_TENSORS)?;
    let mut done = Quantized::default();
    for spec in specs {
        check_shape(&source, spec)?;
        if source.encoded(&spec.name)?.is_some() {
            let problem = "is in 4 bits already; quantize the model's 16-bit folder".to_owned();
            return Err(Error::Stored { name: spec.name.clone(), place: source.place(), problem });
        }
        let tensor = source.read(&spec.name)?;
        done.bytes_before += tensor.numel() as u64 * tensor.kind().elt_size_in_bytes() as u64;
        let quantized = is_quantized(spec);
        done.count(spec.role, quantized);
        if !quantized {
            writer.push(&spec.name, &tensor)?;
            continue;
        }
        let packed = quantize_weight(spec, || source.place(), &tensor, settings)?;
        done.kind = done.kind.or(Some(packed.kind()));
        if !(spec.shape[1] as usize).is_multiple_of(settings.block_size.get()) {
            done.blocks_across_rows.push(spec.name.clone());
        }
        done.compare(&spec.name, &tensor, &packed)?;
        let encoded = packed.to_encoded()?;
        let names: Vec<String> = encoded.beside.keys().map(|part| format!("{}.{part}", spec.name)).collect();
        let beside = names.iter().map(String::as_str).zip(encoded.beside.values());
        let group: Vec<(&str, &Tensor)> =
            std::iter::once((spec.name.as_str(), &encoded.codes)).chain(beside).collect();
        writer.push_all(&group)?;
    }
    done.bytes_after = writer.total_bytes();
    Ok(done)
}

impl Quantized {
    fn count(&mut self, role: Role, quantized: bool) {
        let known = self.roles.iter().position(|count| count.role == role);
        let place = known.unwrap_or_else(|| {
            self.roles.push(RoleCount { role, quantized: 0, kept: 0 });
            self.roles.len() - 1
        });
        self.roles[place].quantized += usize::from(quantized);
        self.roles[place].kept += usize::from(!quantized);
    }

    fn compare(&mut self, name: &str, tensor: &Tensor, packed: &QuantizedTensor) -> Result<()> {
        let (rows, columns) = (tensor.size()[0], tensor.size()[1]);
        let step = (COMPARED / columns.max(1)).max(1);
        let mut deviation = Deviation::default();
        for start in (0..rows).step_by(step as usize) {
            let end = (start + step).min(rows);
            let weights = tensor.f_narrow(0, start, end - start)?.f_to_kind(Kind::Float)?;
            let moved = packed.rows(start..end, Kind::Float)?.f_sub(&weights)?;
            let sum =
                |tensor: Tensor| -> Result<f64> { Ok(tensor.f_sum(Kind::Double)?.f_double_value(&[])?) };
            deviation.add(&Deviation {
                weights: weights.numel() as u64,
                max_absolute: moved.f_abs()?.f_max()?.f_double_value(&[])?,
                sum_absolute: sum(moved.f_abs()?)?,
                sum_square: sum(moved.f_square()?)?,
                sum_weight_square: sum(weights.f_square()?)?,
            });
        }
        let relative = deviation.relative();
        if self.worst.as_ref().is_none_or(|(_, worst)| relative > *worst) {
            self.worst = Some((name.to_owned(), relative));
        }
        self.deviation.add(&deviation);
        Ok(())
    }
}
