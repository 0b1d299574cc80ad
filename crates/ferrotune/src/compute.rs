//! The device and the type to compute in, chosen by the words that flags and files use.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::{Error, Result};

/// `device`, `dtype` and `threads` as a user writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compute {
    /// `auto` (CUDA where there is a device, else the CPU), `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// `auto` (32 bits on a CPU, bf16 on CUDA), `f32`, `bf16` or `f16`.
    pub dtype: String,
    /// Threads for arithmetic on the CPU; libtorch's choice where absent.
    pub threads: Option<u32>,
}

impl Default for Compute {
    fn default() -> Self {
        Self { device: "auto".to_owned(), dtype: "auto".to_owned(), threads: None }
    }
}

/// More than any machine has processors; far above it, the runtime ends the process instead of returning an error.
const MOST_THREADS: u32 = 4096;

impl Compute {
    /// Loads CUDA where it is asked for and there, sets the number of threads, and says where and in what to compute.
    ///
    /// # Errors
    /// A device that is not there, an unknown word, no threads; [`ferrotune_torch::Error::Version`] for a libtorch
    /// other than the one compiled against.
    pub fn resolve(&self) -> Result<(Device, Kind)> {
        ferrotune_torch::version::check()?;
        let device = ferrotune_torch::cuda::device(&self.device)?;
        let kind = match (self.dtype.as_str(), device) {
            ("f32", _) | ("auto", Device::Cpu) => Kind::Float,
            ("bf16", _) | ("auto", _) => Kind::BFloat16,
            ("f16", _) => Kind::Half,
            (other, _) => {
                let (setting, expected) = ("dtype", "auto, f32, bf16 or f16");
                return Err(Error::Setting {
                    setting: setting.into(),
                    found: other.to_owned(),
                    expected: expected.to_owned(),
                });
            }
        };
        if let Some(threads) = self.threads {
            if !(1..=MOST_THREADS).contains(&threads) {
                let expected = format!("at least 1 and at most {MOST_THREADS}");
                return Err(Error::Setting {
                    setting: "threads".into(),
                    found: threads.to_string(),
                    expected,
                });
            }
            tch::set_num_threads(threads as i32);
        }
        Ok((device, kind))
    }
}

/// What reports call a compute type.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "f32",
        Kind::BFloat16 => "bf16",
        Kind::Half => "f16",
        _ => "other",
    }
}

/// What reports call a device.
#[must_use]
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}"),
    }
}
