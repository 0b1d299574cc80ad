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
#[derive(Clone, Debug)]
pub struct Nf4 {
    /// Nothing if weights that are not in four bits already stay dense.
    settings: Option<Quantization>,
    workspace: Workspace,
    census: Census,
}

impl Default for Nf4 {
    /// With the default settings of [`Quantization`].
    fn default() -> Self {
        Self::new(Quantization::default())
    }
}

impl Nf4 {
    /// A storage with these settings.
    #[must_use]
    pub fn new(settings: Quantization) -> Self {
        Self { settings: Some(settings), ..Self::as_stored() }
    }

    /// A storage that takes over what a checkpoint holds in four bits and keeps everything else dense.
    #[must_use]
    pub fn as_stored() -> Self {
        Self { settings: None, workspace: Workspace::default(), census: Census::default() }
    }

    /// Whether weights of this role are quantized.
    #[must_use]
    pub fn quantizes(role: Role) -> bool {
        match role {
            Role::Attention | Role::Mlp | Role::Expert => true,
            Role::Router | Role::Head | Role::Embedding | Role::Norm => false,
        }
    }

    /// Counts of what is quantized, to be read after the model was built.
    #[must_use]
    pub fn census(&self) -> Census {
        self.census.clone()
    }

    /// The tensor `{at}.weight` in four bits, on the model's device; nothing if it is to stay dense.
    fn quantized(&self, role: Role, shape: [i64; 2], at: &Weights<'_>) -> Result<Option<QuantizedTensor>> {
        let tensor = match (at.encoded(WEIGHT, &shape)?, &self.settings) {
            (Some(encoded), _) => QuantizedTensor::from_encoded(&encoded),
            (None, Some(settings)) => {
                let dense = at.stored(WEIGHT, &shape)?;
                // Where there are kernels the device quantizes; otherwise only the bytes go there.
                let quantizes = kernels::of_device(at.device()).is_some();
                let dense = if quantizes { dense.f_to_device(at.device())? } else { dense };
                QuantizedTensor::quantize(&dense, settings)
            }
            (None, None) => return Ok(None),
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
        Ok(Some(tensor))
    }

    fn build_matrix(&self, site: &Site, at: &Weights<'_>) -> Result<Arc<dyn Matrix>> {
        if !Self::quantizes(site.role) {
            return self.dense(site, at);
        }
        let Some(tensor) = self.quantized(site.role, site.dims.shape(), at)? else {
            return self.dense(site, at);
        };
        Ok(Arc::new(QuantizedMatrix {
            tensor,
            kind: at.kind(),
            workspace: self.workspace.clone(),
            path: at.path().to_owned(),
        }))
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
        self.count_dense(site.role, site.dims.shape(), at);
        Ok(matrix)
    }

    fn count_dense(&self, role: Role, shape: [i64; 2], at: &Weights<'_>) {
        let weights = shape.iter().product::<i64>() as u64;
        self.census.count(role, false, weights, weights * at.kind().elt_size_in_bytes() as u64);
    }

    fn build_group(&self, site: &GroupedSite, at: &Weights<'_>) -> Result<Arc<dyn GroupedMatrix>> {
        let mut experts = Vec::new();
        for expert in 0..site.experts {
            let part = |part: &ferrotune_nn::Part| {
                let shape = [part.out_features, site.in_features];
                self.quantized(Role::Expert, shape, &at.at(expert).at(part.name))
            };
            match site.parts.iter().map(part).collect::<Result<Option<Vec<_>>>>()? {
                Some(parts) => experts.push(parts),
                None => return self.dense_group(site, at),
            }
        }
        // libtorch's grouped product is in bf16; in other types all experts at once would only take memory.
        let kernels = if at.kind() == Kind::BFloat16 { ExpertKernels::new(&experts)? } else { None };
        // An expert's parts are decoded together; with kernels, all experts are.
        let together = if kernels.is_some() { site.experts } else { 1 };
        self.workspace.reserve((together * site.out_features() * site.in_features) as usize);
        Ok(Arc::new(QuantizedGroup {
            experts,
            kernels,
            in_features: site.in_features,
            out_features: site.out_features(),
            kind: at.kind(),
            workspace: self.workspace.clone(),
            path: at.path().to_owned(),
        }))
    }

    fn dense_group(&self, site: &GroupedSite, at: &Weights<'_>) -> Result<Arc<dyn GroupedMatrix>> {
        let group = Dense.grouped_matrix(site, at)?;
        for part in site.parts.iter().cycle().take(site.parts.len() * site.experts as usize) {
            self.count_dense(Role::Expert, [part.out_features, site.in_features], at);
        }
        Ok(group)
    }
}

const WEIGHT: &str = "weight";

impl Storage for Nf4 {
    fn matrix(&mut self, site: &Site, at: &Weights<'_>) -> ModelResult<Arc<dyn Matrix>> {
        self.build_matrix(site, at).map_err(|error| error.at(at.path()))
    }

    fn grouped_matrix(
        &mut self,
        site: &GroupedSite,
        at: &Weights<'_>,
    ) -> ModelResult<Arc<dyn GroupedMatrix>> {
        self.build_group(site, at).map_err(|error| error.at(at.path()))
    }

    fn rounded(&self, role: Role, weight: &Tensor) -> ModelResult<Option<Tensor>> {
        let Some(settings) = self.settings.filter(|_| Self::quantizes(role)) else { return Ok(None) };
        let decoded = || QuantizedTensor::quantize(weight, &settings)?.dequantize(Kind::Float);
        decoded().map(Some).map_err(|error| error.at("a weight"))
    }
}
