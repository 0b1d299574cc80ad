//! `config.json` of BERT checkpoints, and how sentence-transformers folders say what to do with the states.

use std::path::Path;

use ferrotune_nn::{Result, checkpoint::read_json, config::ConfigFile};
use serde_json::{Map, Value, json};

/// Dimensions and constants; fields are named as in `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Number of token ids.
    pub vocab_size: i64,
    /// Width of the states.
    pub hidden_size: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Heads.
    pub num_attention_heads: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Positions.
    pub max_position_embeddings: i64,
    /// Segment types; sentences are all of type 0.
    pub type_vocab_size: i64,
    /// Added to the variance in normalizations.
    pub layer_norm_eps: f64,
    /// Tokens after which a sentence is cut, special tokens included.
    pub max_seq_length: i64,
}

/// Where sentence-transformers cuts when a folder does not say: at this or the number of positions, if fewer.
const DEFAULT_MAX_SEQ_LENGTH: i64 = 256;

impl Config {
    /// Reads a model folder. `sentence_bert_config.json` gives the length after which sentences are cut, and
    /// `1_Pooling/config.json` must ask for the mean, where they are there.
    ///
    /// # Errors
    /// [`ferrotune_nn::Error::Config`] for an option that is not implemented.
    pub fn open(folder: &Path) -> Result<Self> {
        let file = ConfigFile::open(folder)?;
        file.only("model_type", &[json!("bert")])?;
        file.only("hidden_act", &[json!("gelu")])?;
        file.only("position_embedding_type", &[json!("absolute")])?;
        file.only("is_decoder", &[json!(false)])?;
        refuse_other_modules(folder)?;
        if let Some(pooling) = optional_table(folder, "1_Pooling/config.json")? {
            pooling.only("pooling_mode_mean_tokens", &[json!(true)])?;
            for other in
                ["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
            {
                pooling.only(&format!("pooling_mode_{other}"), &[json!(false)])?;
            }
        }
        let (hidden_size, num_attention_heads) =
            (file.size("hidden_size")?, file.size("num_attention_heads")?);
        if hidden_size % num_attention_heads != 0 {
            let expected = format!("a multiple of num_attention_heads, {num_attention_heads}");
            return Err(file.refuse("hidden_size", &json!(hidden_size), &expected));
        }
        let max_position_embeddings = file.size("max_position_embeddings")?;
        let sentence = optional_table(folder, "sentence_bert_config.json")?;
        let asked = sentence.map(|table| table.optional_size("max_seq_length")).transpose()?.flatten();
        Ok(Self {
            vocab_size: file.size("vocab_size")?,
            hidden_size,
            num_hidden_layers: file.size("num_hidden_layers")?,
            num_attention_heads,
            intermediate_size: file.size("intermediate_size")?,
            max_position_embeddings,
            type_vocab_size: file.size("type_vocab_size")?,
            layer_norm_eps: file.optional("layer_norm_eps")?.unwrap_or(1e-12),
            max_seq_length: asked.unwrap_or(DEFAULT_MAX_SEQ_LENGTH).min(max_position_embeddings),
        })
    }
}

/// Where tokens are cut that are not averaged into a sentence: `model_max_length` of `tokenizer_config.json`, or the
/// number of positions, if that is fewer.
pub(crate) fn tokenizer_length(folder: &Path, config: &Config) -> Result<i64> {
    let asked = match optional_table(folder, "tokenizer_config.json")? {
        // Folders without a limit give 1e30, which is no integer.
        Some(table) => table.optional::<f64>("model_max_length")?,
        None => None,
    };
    let positions = config.max_position_embeddings;
    Ok(asked.filter(|&length| length >= 1.0).map_or(positions, |length| positions.min(length as i64)))
}

/// Refuses a sentence-transformers folder that does more than encode, average and normalize.
fn refuse_other_modules(folder: &Path) -> Result<()> {
    let path = folder.join("modules.json");
    if !path.is_file() {
        return Ok(());
    }
    let modules: Vec<Map<String, Value>> = read_json(&path)?;
    for module in modules {
        let file = ConfigFile::from_fields(&format!("`{}`", path.display()), module);
        let kind = file.required::<String>("type")?;
        if !matches!(kind.rsplit('.').next(), Some("Transformer" | "Pooling" | "Normalize")) {
            let expected = "Transformer, Pooling or Normalize (nothing else is implemented)";
            return Err(file.refuse("type", &json!(kind), expected));
        }
    }
    Ok(())
}

fn optional_table(folder: &Path, name: &str) -> Result<Option<ConfigFile>> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let fields: Map<String, Value> = read_json(&path)?;
    Ok(Some(ConfigFile::from_fields(&format!("`{}`", path.display()), fields)))
}
