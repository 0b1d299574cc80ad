//! Telling a base from another one of the same shapes.

use ferrotune_adapters::{AdapterWeights, BaseRecord};
use ferrotune_core::digest;
use ferrotune_nn::{Role, WeightSource, decoder::IGNORED_TENSORS, weights::Layouts};
use tch::{Kind, Tensor};

use crate::{AutoCausalLm, Error, Result};

/// Rows that are looked at of each matrix of attention, MLPs and experts, the first and the last among them. Training and merging change
/// every row, one head of attention is some hundred rows of a few thousand, and reading all of a large model would take longer than a short
/// answer from it. So this tells models apart; it is no seal against someone who means to deceive.
const ROWS: i64 = 64;

/// The name of what is done here, for the record.
const RULE: &str = "rows-64";

/// Elements that are read at a time of what is read whole.
const CHUNK: i64 = 1 << 22;

/// What an adapter is to remember of the model in `folder`: digests of 64 rows of each matrix of attention, MLPs and experts, and of
/// all else in full, since a tokenizer that grew, or tokens that were trained, are a few rows of an embedding.
///
/// Values are rounded to bf16 first and weights go by their names in the model, so the same weights stored in bf16, in several
/// files or in another layout of experts are the same base.
///
/// # Errors
/// What reading gives.
pub fn base_record(folder: &AutoCausalLm) -> Result<BaseRecord> {
    let (weights, specs) = (folder.open_weights()?, folder.weights());
    let source = Layouts::new(&weights, &specs, IGNORED_TENSORS)?;
    let (mut matrices, mut others) = (String::new(), String::new());
    for spec in &specs {
        let sampled =
            matches!(spec.role, Role::Attention | Role::Mlp | Role::Expert) && spec.shape.len() == 2;
        let of = if sampled { &mut matrices } else { &mut others };
        *of += &format!("{} {:?} ", spec.name, spec.shape);
        let rows = spec.shape[0];
        if sampled && rows > ROWS {
            for row in (0..ROWS).map(|step| step * (rows - 1) / (ROWS - 1)) {
                *of += &values(&source.read_rows(&spec.name, row..row + 1)?)?;
            }
        } else {
            let step = (CHUNK / spec.shape[1..].iter().product::<i64>().max(1)).max(1);
            for start in (0..rows).step_by(step as usize) {
                *of += &values(&source.read_rows(&spec.name, start..(start + step).min(rows))?)?;
            }
        }
    }
    Ok(BaseRecord {
        rule: RULE.to_owned(),
        matrices: digest::of_bytes(matrices.as_bytes()),
        others: digest::of_bytes(others.as_bytes()),
        in_4_bits: folder.quantization().is_some(),
    })
}

/// The digest of numbers in bf16.
fn values(tensor: &Tensor) -> Result<String> {
    let tensor = tensor.f_to_kind(Kind::BFloat16)?.f_contiguous()?;
    Ok(digest::of_bytes(&ferrotune_nn::checkpoint::tensor_bytes("a weight", &tensor)?.2))
}

/// Refuses an adapter that was made for another base. One that does not say for which is taken; its shapes are compared when it is
/// built.
///
/// # Errors
/// [`Error::OtherBase`], and what reading gives.
pub fn check_base(folder: &AutoCausalLm, adapter: &AdapterWeights) -> Result<()> {
    check_against(folder, adapter, &mut None)
}

/// [`check_base`] with the record of `folder`, which is made where it is needed and not `known` yet.
pub(crate) fn check_against(
    folder: &AutoCausalLm,
    adapter: &AdapterWeights,
    known: &mut Option<BaseRecord>,
) -> Result<()> {
    let Some(recorded) = adapter.base() else { return Ok(()) };
    let found = match known {
        Some(found) => found,
        None => known.insert(base_record(folder)?),
    };
    let Some(difference) = recorded.difference(found) else { return Ok(()) };
    Err(Error::OtherBase {
        adapter: adapter.place().to_owned(),
        base: folder.folder().to_owned(),
        difference,
        trained_on: adapter.config().base_model_name_or_path.clone().unwrap_or_default(),
    })
}
