//! A model folder with its matrices in 4 bits.

use std::path::Path;

use ferrotune_adapters::{
    Quantization,
    bitsandbytes::{QuantizationConfig, Quantized},
};
use ferrotune_nn::checkpoint::{CheckpointWriter, write_whole};
use serde_json::Value;

use crate::{AutoCausalLm, Result, copy_companions};

/// Writes the model of `folder` with the matrices of attention, MLPs and experts in 4 bits into `output`, which must be an
/// existing folder: weights as bitsandbytes stores them, `config.json` with what transformers needs to read them, and the
/// tokenizer's files.
///
/// transformers reads LLaMA and Mistral so. Of Mixtral, whose experts it cannot hold in 4 bits, the file has one 4-bit
/// matrix each, as transformers 4 and bitsandbytes had them. A new file begins beyond `shard_bytes`, 5 GB if nothing is said.
///
/// # Errors
/// An expert whose rows are no whole blocks, a NaN or infinite weight and a model that is in 4 bits already, by name; what
/// reading and writing give.
pub fn quantize(
    folder: &AutoCausalLm,
    settings: &Quantization,
    shard_bytes: Option<u64>,
    output: &Path,
) -> Result<Quantized> {
    let source = folder.open_weights()?;
    let mut writer = match shard_bytes {
        None => CheckpointWriter::new(output),
        Some(bytes) => CheckpointWriter::with_shard_bytes(output, bytes),
    };
    let specs = folder.weights();
    let quantized = ferrotune_adapters::bitsandbytes::quantize(&source, &specs, settings, &mut writer)?;
    writer.finish()?;
    let config = QuantizationConfig::new(settings, quantized.kind.unwrap_or(tch::Kind::Float), &specs);
    let mut fields = folder.config_file().fields().clone();
    fields.insert(QuantizationConfig::FIELD.to_owned(), config.to_fields());
    write_whole(&output.join("config.json"), format!("{:#}\n", Value::Object(fields)).as_bytes())?;
    copy_companions(folder.folder(), output)?;
    Ok(quantized)
}
