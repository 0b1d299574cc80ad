//! The storage: which weights are quantized, and from what.

use std::sync::Arc;

use ferrotune_nn::{
    Dense, GroupedMatrix, GroupedSite, Matrix, Result as ModelResult, Role, Site, Storage, Weights,
};
use tch::{Kind, Tensor};

use ferrotune_torch::memory;

use super::{
    Census, Quantization, QuantizedTensor,
    group::QuantizedGroup,
    kernels::{self, ExpertKernels},
    matrix::QuantizedMatrix,
    workspace::Workspace,
};
use crate::{Error, Result};

/// The storage that keeps matrices in four bits: those of attention, of MLPs and of experts. Routers and heads stay dense.
///
/// Weights are quantized as the checkpoint stores them, whatever type the model computes in, so that what is trained
/// over and what is merged onto depend on the checkpoint alone. One tensor is read, quantized and dropped before the next.
/// Where the checkpoint is quantized already, its bytes are taken as they are, and its settings win over these.
#[derive(Clone, Debug, Default)]
pub struct Nf4 {
    settings: Quantization,
    workspace: Workspace,
    census: Census,
}

impl Nf4 {
    /// A storage with these settings; [`Default`] has those of [`Quantization`].
    #[must_use]
    pub fn new(settings: Quantization) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Counts of what is quantized, to be read after the model was built.
    #[must_use]
    pub fn census(&self) -> Census {
        self.census.clone()
    }

    /// The tensor `{at}.weight` in four bits, on the model's device.
    fn quantized(&self, role: Role, shape: [i64; 2], at: &Weights<'_>) -> Result<QuantizedTensor> {
        let tensor = match at.encoded(WEIGHT, &shape)? {
            Some(encoded) => QuantizedTensor::from_encoded(&encoded),
            None => {
                let dense = at.stored(WEIGHT, &shape)?;
                // Where there are kernels the device quantizes; otherwise only the bytes go there.
                let quantizes = kernels::of_device(at.device()).is_some();
                let dense = if quantizes { dense.f_to_device(at.device())? } else { dense };
                QuantizedTensor::quantize(&dense, &self.settings)
            }
        };
        // The dense matrix is gone; its memory must be too before the next one comes.
        memory::trim_host();
        let name = || format!("{}.{WEIGHT}", at.path());
        let tensor = tensor.map_err(|source| Error::Quantized {
            name: name(),
            place: at.place(),
            source: Box::new(source),
        })?;
        let block_size = tensor.quantization().block_size.get();
        if role == Role::Expert && !(shape[1] as usize).is_multiple_of(block_size) {
            return Err(Error::BlockAcrossRows {
                name: name(),
                place: at.place(),
                columns: shape[1],
                block_size,
            });
        }
        let tensor = tensor.to_device(at.device())?;
        self.workspace.reserve(tensor.numel());
        self.census.count(role, true, tensor.numel() as u64, tensor.bytes());
        tracing::debug!(name = name(), bytes = tensor.bytes(), "quantized");
        Ok(tensor)
    }

    fn dense(&self, site: &Site, at: &Weights<'_>) -> Result<Arc<dyn Matrix>> {
        if at.encoded(WEIGHT, &site.dims.shape())?.is_some() {
            return Err(Error::QuantizedRole {
                name: format!("{}.{WEIGHT}", at.path()),
                place: at.place(),
                role: if site.role == Role::Router { "router" } else { "head" },
            });
        }
        let matrix = Dense.matrix(site, at)?;
        let weights = site.dims.shape().iter().product::<i64>() as u64;
        self.census.count(site.role, false, weights, weights * at.kind().elt_size_in_bytes() as u64);
        Ok(matrix)
    }

    fn group(&self, site: &GroupedSite, at: &Weights<'_>) -> Result<QuantizedGroup> {
        let mut experts = Vec::new();
        for expert in 0..site.experts {
            let part = |part: &ferrotune_nn::Part| {
                let shape = [part.out_features, site.in_features];
                self.quantized(Role::Expert, shape, &at.at(expert).at(part.name))
            };
            experts.push(site.parts.iter().map(part).collect::<Result<Vec<_>>>()?);
        }
        let kernels = ExpertKernels::new(&experts)?;
        // An expert's parts are decoded together; with kernels, all experts are.
        let together = if kernels.is_some() { site.experts } else { 1 };
        self.workspace.reserve((together * site.out_features() * site.in_features) as usize);
        Ok(QuantizedGroup {
            experts,
            kernels,
            in_features: site.in_features,
            out_features: site.out_features(),
            kind: at.kind(),
            workspace: self.workspace.clone(),
            path: at.path().to_owned(),
        })
    }
}

const WEIGHT: &str = "weight";

impl Storage for Nf4 {
    fn matrix(&mut self, site: &Site, at: &Weights<'_>) -> ModelResult<Arc<dyn Matrix>> {
        let matrix = || match site.role {
            Role::Attention | Role::Mlp | Role::Expert => Ok(Arc::new(QuantizedMatrix {
                tensor: self.quantized(site.role, site.dims.shape(), at)?,
                kind: at.kind(),
                workspace: self.workspace.clone(),
                path: at.path().to_owned(),
            }) as Arc<dyn Matrix>),
            Role::Router | Role::Head | Role::Embedding | Role::Norm => self.dense(site, at),
        };
        matrix().map_err(|error| error.at(at.path()))
    }

    fn grouped_matrix(
        &mut self,
        site: &GroupedSite,
        at: &Weights<'_>,
    ) -> ModelResult<Arc<dyn GroupedMatrix>> {
        let group = self.group(site, at).map_err(|error| error.at(at.path()))?;
        Ok(Arc::new(group))
    }

    fn rounded(&self, role: Role, weight: &Tensor) -> ModelResult<Option<Tensor>> {
        match role {
            Role::Attention | Role::Mlp | Role::Expert => {
                let decoded = || QuantizedTensor::quantize(weight, &self.settings)?.dequantize(Kind::Float);
                decoded().map(Some).map_err(|error| error.at("a weight"))
            }
            Role::Router | Role::Head | Role::Embedding | Role::Norm => Ok(None),
        }
    }
}
