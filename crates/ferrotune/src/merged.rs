//! Adapters added to a model folder's weights.

use std::{fmt::Write as _, path::Path};

use ferrotune_adapters::{
    AdapterWeights, Codebook, MergeBase, MergeOptions, Merged, Quantization, Untied,
    bitsandbytes::QuantizationConfig,
};
use ferrotune_nn::checkpoint::{CheckpointWriter, write_whole};
use serde_json::{Map, Value, json};
use tch::Kind;

use crate::{AutoCausalLm, Result, adapted::untied, check_base, copy_companions};

/// Writes the model of `folder` with `adapters` added into `output`, which must be an existing folder: weights shard by
/// shard, `config.json`, the tokenizer's files, and a `README.md` that says what was added to what.
///
/// # Errors
/// An adapter made for another base ([`check_base`]), and what quantizing refuses, by name; what reading and writing give.
pub fn merge(
    folder: &AutoCausalLm,
    adapters: &[&AdapterWeights],
    options: &MergeOptions,
    output: &Path,
) -> Result<Merged> {
    for adapter in adapters {
        check_base(folder, adapter)?;
    }
    let checkpoint = folder.open_weights()?;
    let mut writer = CheckpointWriter::new(output);
    let mut fields = folder.config_file().fields().clone();
    fields.shift_remove(QuantizationConfig::FIELD); // what comes out is dense
    let mut own_head = None;
    for adapter in adapters {
        own_head = own_head.or(untied(folder, adapter.config())?);
    }
    let merged = match own_head {
        None => ferrotune_adapters::merge(&checkpoint, &folder.weights(), adapters, options, &mut writer)?,
        Some(untied) => {
            fields.insert("tie_word_embeddings".to_owned(), json!(false));
            let specs = untied.weights();
            let source = Untied::new(&checkpoint, &specs)?;
            ferrotune_adapters::merge(&source, &specs, adapters, options, &mut writer)?
        }
    };
    writer.finish()?;
    if let Some(kind) = options.kind {
        name_type(&mut fields, kind);
    }
    write_whole(&output.join("config.json"), format!("{:#}\n", Value::Object(fields)).as_bytes())?;
    write_whole(&output.join("README.md"), card(folder, adapters, options).as_bytes())?;
    copy_companions(folder.folder(), output)?;
    Ok(merged)
}

/// Writes the weights' type into a configuration, by the key that it uses already.
fn name_type(fields: &mut Map<String, Value>, kind: Kind) {
    let name = match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    };
    let key = if fields.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
    fields.insert(key.to_owned(), json!(name));
}

/// What adapters are added to, in words: for the card and for messages.
#[must_use]
pub fn merge_base(folder: &AutoCausalLm, base: MergeBase) -> String {
    match (folder.quantization(), base) {
        (Some(_), _) => "the folder's 4-bit weights, dequantized".to_owned(),
        (None, MergeBase::AsStored) => "the weights as they are stored".to_owned(),
        (None, MergeBase::Quantized(Quantization { codebook, block_size, double_quantization })) => {
            let codebook = match codebook {
                Codebook::Nf4 => "NF4",
                Codebook::Fp4 => "FP4",
            };
            let double = if double_quantization { " with double quantization" } else { "" };
            format!("dequantize(quantize(weights)), {codebook} in blocks of {}{double}", block_size.get())
        }
    }
}

fn card(folder: &AutoCausalLm, adapters: &[&AdapterWeights], options: &MergeOptions) -> String {
    let mut card = format!(
        "---\nbase_model: {:?}\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# A model with LoRA merged \
         into it\n\nBase: `{}`.\nAdded to: {}.\nAdapters:\n\n",
        folder.folder().display().to_string(),
        folder.folder().display(),
        merge_base(folder, options.base),
    );
    for adapter in adapters {
        let config = adapter.config();
        let base = config.base_model_name_or_path.as_deref().unwrap_or("not recorded");
        // Writing into a string cannot fail.
        let _ = writeln!(card, "- rank {}, alpha {}, trained on `{base}`", config.r, config.lora_alpha);
    }
    // As `ferrotune_adapters::merge` has it.
    let quantizes = folder.quantization().is_none() && matches!(options.base, MergeBase::Quantized(_));
    if let ([adapter], true) = (adapters, quantizes)
        && adapter.trained().init_lora_weights.changes_base()
    {
        card.push_str("\nIt began with a part of the base, which was taken out before the base was quantized, as in training.\n");
    }
    card.push_str("\nEverything was added in 32 bits and rounded once.\n");
    card
}
