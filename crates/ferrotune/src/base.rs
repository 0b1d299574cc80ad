//! How the frozen base is kept, in the words of flags and files.

use ferrotune_adapters::{BlockSize, Census, Codebook, Nf4, Quantization};
use ferrotune_nn::{Dense, Storage};
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::{AutoCausalLm, Error, Result, kind_name};

/// What becomes of the matrices of attention, MLPs and experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantize {
    /// They are kept in the type that is computed in; those that a checkpoint holds in four bits are decoded.
    None,
    /// They are kept as NF4, which is QLoRA.
    Nf4,
    /// They are kept as FP4.
    Fp4,
}

/// `quantize`, `block_size` and `double_quant` as a user writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaseConfig {
    /// Where absent, each weight is kept as the checkpoint has it.
    pub quantize: Option<Quantize>,
    /// Weights that share a scale: a power of two from 32 to 4096.
    pub block_size: usize,
    /// Whether scales are kept in eight bits.
    pub double_quant: bool,
}

impl Default for BaseConfig {
    /// As the checkpoint has it; where 4 bits are asked for, blocks of 64 with double quantization.
    fn default() -> Self {
        let Quantization { block_size, double_quantization, .. } = Quantization::default();
        Self { quantize: None, block_size: block_size.get(), double_quant: double_quantization }
    }
}

impl BaseConfig {
    /// What dense weights are quantized to; nothing if they stay dense.
    ///
    /// # Errors
    /// [`Error::Setting`] for a block size that the format does not have.
    pub fn quantization(&self) -> Result<Option<Quantization>> {
        let block_size = BlockSize::new(self.block_size).map_err(|_| Error::Setting {
            setting: "block_size".into(),
            found: self.block_size.to_string(),
            expected: "32, 64, 128, 256, 512, 1024, 2048 or 4096".to_owned(),
        })?;
        let codebook = match self.quantize {
            Some(Quantize::Nf4) => Codebook::Nf4,
            Some(Quantize::Fp4) => Codebook::Fp4,
            Some(Quantize::None) | None => return Ok(None),
        };
        Ok(Some(Quantization { codebook, block_size, double_quantization: self.double_quant }))
    }

    /// What dense weights of `folder` are quantized to. A folder in 4 bits keeps its own codes, so asking for others there
    /// would change nothing but what is written down.
    fn asked(&self, folder: &AutoCausalLm) -> Result<Option<Quantization>> {
        let asked = self.quantization()?;
        if asked.is_some() && folder.quantization().is_some() {
            return Err(Error::Setting {
                setting: "quantize".into(),
                found: self.describe(),
                expected: format!(
                    "nothing, or none: `{}` is in 4 bits already and is kept as it is",
                    folder.folder().display()
                ),
            });
        }
        Ok(asked)
    }

    /// The storage for the base of `folder`, and counts of what it holds once a model was built over it. A storage is for
    /// one model.
    ///
    /// # Errors
    /// As [`quantization`](Self::quantization), and [`Error::Setting`] for a format asked of a folder that is in 4 bits
    /// already.
    pub fn storage(&self, folder: &AutoCausalLm) -> Result<(Box<dyn Storage>, Census)> {
        let nf4 = match self.asked(folder)? {
            Some(quantization) => Nf4::new(quantization),
            None if self.quantize.is_none() && folder.quantization().is_some() => Nf4::as_stored(),
            None => return Ok((Box::new(Dense), Census::default())),
        };
        let census = nf4.census();
        Ok((Box::new(nf4), census))
    }

    /// How the matrices of `folder` end up being kept; nothing if they are dense. Of a folder that is in 4 bits already the
    /// usual settings are taken, since each of its weights has its own.
    ///
    /// # Errors
    /// As [`storage`](Self::storage).
    pub fn kept(&self, folder: &AutoCausalLm) -> Result<Option<Quantization>> {
        Ok(match self.asked(folder)? {
            None if self.quantize.is_none() && folder.quantization().is_some() => {
                Some(Quantization::default())
            }
            other => other,
        })
    }

    /// What a record says of a model that computes in `kind`: `bf16`, or `bf16 over NF4 in blocks of 64`.
    #[must_use]
    pub fn describe_model(&self, folder: &AutoCausalLm, kind: Kind) -> String {
        let name = kind_name(kind);
        match self.quantize {
            Some(Quantize::None) => name.to_owned(),
            None if folder.quantization().is_some() => format!("{name} over the folder's 4-bit weights"),
            None => name.to_owned(),
            Some(_) => format!("{name} over {}", self.describe()),
        }
    }

    /// What reports call it: `as stored`, `dense`, `NF4 in blocks of 64, double quantization`.
    #[must_use]
    pub fn describe(&self) -> String {
        let codebook = match self.quantize {
            None => return "as stored".to_owned(),
            Some(Quantize::None) => return "dense".to_owned(),
            Some(Quantize::Nf4) => "NF4",
            Some(Quantize::Fp4) => "FP4",
        };
        let double = if self.double_quant { ", double quantization" } else { "" };
        format!("{codebook} in blocks of {}{double}", self.block_size)
    }
}
