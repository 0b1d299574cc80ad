//! Golden models and adapters, and how far apart two tensors are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ferrotune_adapters::{AdapterWeights, Lora, LoraAdapter, LoraConfig, Untied};
use ferrotune_llama2::Llama2;
use ferrotune_mixtral::{AuxiliaryLoss, Mixtral};
use ferrotune_nn::{
    CausalLm, Dense, Frozen, Hidden, Pass, ProjectionBuilder, Role, Tokens, WeightSource, WeightSpec,
    checkpoint::Checkpoint, config::ConfigFile,
};
use ferrotune_torch::SharedTensor;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Largest difference over the largest expected value: two orders of summation in 32 bits stay under 1e-6 on these
/// models, another formula does not stay under this.
pub(crate) const LOGITS: f64 = 2e-5;

pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ferrotune/tests/golden")
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

/// A golden model's configuration, weights and kind.
pub(crate) struct Model {
    config: Config,
    source: Checkpoint,
}

enum Config {
    Llama(ferrotune_llama2::Config),
    Mixtral(ferrotune_mixtral::Config),
}

impl Model {
    pub(crate) fn open(name: &str) -> Self {
        Self::at(&golden().join("models").join(name))
    }

    pub(crate) fn at(folder: &Path) -> Self {
        Self::with_config(folder, folder)
    }

    /// The configuration of one folder with the weights of another.
    pub(crate) fn with_config(config: &Path, weights: &Path) -> Self {
        let file = ConfigFile::open(config).unwrap();
        let config = match file.required::<String>("model_type").unwrap().as_str() {
            "mixtral" => Config::Mixtral(ferrotune_mixtral::Config::read(&file).unwrap()),
            _ => Config::Llama(ferrotune_llama2::Config::read(&file).unwrap()),
        };
        Self { config, source: Checkpoint::open(weights).unwrap() }
    }

    /// The same with a head of its own.
    pub(crate) fn untied(mut self) -> Self {
        match &mut self.config {
            Config::Llama(config) => config.tie_word_embeddings = false,
            Config::Mixtral(config) => config.tie_word_embeddings = false,
        }
        self
    }

    pub(crate) fn tied(&self) -> bool {
        match &self.config {
            Config::Llama(config) => config.tie_word_embeddings,
            Config::Mixtral(config) => config.tie_word_embeddings,
        }
    }

    pub(crate) fn specs(&self) -> Vec<WeightSpec> {
        match &self.config {
            Config::Llama(config) => config.weights(),
            Config::Mixtral(config) => config.weights(),
        }
    }

    /// The weights, seen as the configuration asks for them.
    pub(crate) fn with_source<T>(&self, then: impl FnOnce(&dyn WeightSource) -> T) -> T {
        let specs = self.specs();
        let absent = |role| {
            let spec = specs.iter().find(|spec| spec.role == role);
            spec.is_some_and(|spec| self.source.shape(&spec.name).is_none())
        };
        if !self.tied() && (absent(Role::Head) || absent(Role::Embedding)) {
            then(&Untied::new(&self.source, &specs).unwrap())
        } else {
            then(&self.source)
        }
    }

    pub(crate) fn try_load(
        &self,
        kind: Kind,
        builder: &mut dyn ProjectionBuilder,
    ) -> ferrotune_nn::Result<Box<dyn CausalLm>> {
        self.with_source(|source| -> ferrotune_nn::Result<Box<dyn CausalLm>> {
            Ok(match &self.config {
                Config::Llama(config) => {
                    Box::new(Llama2::load(config.clone(), source, Device::Cpu, kind, builder)?)
                }
                Config::Mixtral(config) => {
                    let auxiliary = AuxiliaryLoss::Concatenated;
                    Box::new(Mixtral::load(config.clone(), auxiliary, source, Device::Cpu, kind, builder)?)
                }
            })
        })
    }

    pub(crate) fn load(&self, builder: &mut dyn ProjectionBuilder) -> Box<dyn CausalLm> {
        self.try_load(Kind::Float, builder).unwrap()
    }

    pub(crate) fn base(&self) -> Box<dyn CausalLm> {
        self.load(&mut Frozen::new(Dense))
    }

    pub(crate) fn fresh(&self, config: LoraConfig) -> (Box<dyn CausalLm>, LoraAdapter) {
        let mut lora = Lora::new(config, Dense).unwrap();
        let model = self.load(&mut lora);
        (model, lora.finish().unwrap())
    }

    pub(crate) fn read(&self, weights: &AdapterWeights) -> (Box<dyn CausalLm>, LoraAdapter) {
        let mut lora = Lora::load(weights, Dense).unwrap();
        let model = self.load(&mut lora);
        (model, lora.finish().unwrap())
    }
}

pub(crate) fn ids() -> Tensor {
    let row = |seed: i64| (0..12).map(move |place| (7 * place * place + 13 * seed + place) % 90 + 3);
    Tensor::from_slice(&row(1).chain(row(2)).collect::<Vec<i64>>()).view([2, 12])
}

pub(crate) fn logits(model: &dyn CausalLm, ids: &Tensor, pass: &Pass) -> Tensor {
    let Hidden { states, .. } = model.hidden(&Tokens::full(ids), None, pass).unwrap();
    model.logits(&states, pass).unwrap()
}

/// Largest difference over the largest expected value.
pub(crate) fn largest(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    (&found - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[])
}

/// Euclidean norm of the difference over that of the expected.
pub(crate) fn norm_relative(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    (&found - &expected).norm().double_value(&[]) / expected.norm().double_value(&[]).max(1e-12)
}

/// Gives every trained tensor values that are far from where it started.
pub(crate) fn shake(adapter: &LoraAdapter, seed: i64) {
    tch::manual_seed(seed);
    tch::no_grad(|| {
        for trained in adapter.parameters() {
            let mut tensor = trained.tensor.shallow_clone();
            let noise = Tensor::randn(tensor.size(), (tensor.kind(), tensor.device())) * 0.1;
            let _ = tensor.g_add_(&noise);
        }
    });
}

/// Keeps other tests from drawing random numbers meanwhile: libtorch's generator is one for the whole process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing here that another could trip over.
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Weights in memory.
pub(crate) struct Kept(BTreeMap<String, SharedTensor>);

impl Kept {
    pub(crate) fn new(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect())
    }

    /// What `source` gives when each of its tensors is read once.
    pub(crate) fn read(source: &dyn WeightSource) -> Self {
        Self::new(source.names().into_iter().map(|name| (name.clone(), source.read(&name).unwrap())))
    }
}

impl WeightSource for Kept {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.0.get(name).map(|tensor| tensor.size())
    }

    fn read(&self, name: &str) -> ferrotune_nn::Result<Tensor> {
        Ok(self.0[name].shallow_clone())
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn place(&self) -> String {
        "a test".to_owned()
    }
}
