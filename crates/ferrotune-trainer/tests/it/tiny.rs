//! Two small models and their samples.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ferrotune_core::{BoxError, Sample};
use ferrotune_llama2::{Config, Llama2};
use ferrotune_nn::{
    CausalLm, Decay, Gradient, Hidden, KvCache, Parameters, Pass, Result, Tokens, Trainable, Trained,
    config::ConfigFile, seam::Mode, weights::Initialized,
};
use ferrotune_torch::{SharedTensor, generator};
use ferrotune_trainer::TrainingConfig;
use tch::{Device, Kind, Tensor};

/// Held by each test that trains: the generators are the process's, and every run seeds them.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock has failed already.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) const VOCABULARY: i64 = 11;
pub(crate) const HIDDEN: i64 = 6;

/// The token that reaches the expert of [`Tiny`].
pub(crate) const ROUTED: i64 = 10;

/// `head · (norm ∘ tanh(mix · embed[id] + bias))`: a bigram model, small enough to be written twice.
#[derive(Debug)]
pub(crate) struct Tiny {
    embed: SharedTensor,
    mix: SharedTensor,
    bias: SharedTensor,
    norm: SharedTensor,
    head: SharedTensor,
    pub(crate) twist: Twist,
}

/// What is special about a [`Tiny`].
#[derive(Debug, Default)]
pub(crate) enum Twist {
    #[default]
    None,
    /// The bias takes no part.
    CutBias,
    /// Batches that contain this token have a loss that is no number.
    NanAt(i64),
    /// The square of the states, times this, is asked for as an auxiliary loss.
    Auxiliary(f64),
    /// This tensor is added to the states of [`ROUTED`] tokens, if there are any.
    Expert(SharedTensor),
    /// The derivative of the states with respect to the bias is infinite.
    SteepBias,
}

pub(crate) fn trained(name: &str, tensor: &SharedTensor, decay: Decay, gradient: Gradient) -> Trained {
    Trained { name: name.to_owned(), tensor: tensor.clone(), decay, gradient }
}

impl Tiny {
    pub(crate) fn from_tensors([embed, mix, bias, norm, head]: [Tensor; 5]) -> (Self, Parameters) {
        let leaf = |tensor: Tensor| SharedTensor::from(tensor.detach().copy().set_requires_grad(true));
        let model = Self {
            embed: leaf(embed),
            mix: leaf(mix),
            bias: leaf(bias),
            norm: leaf(norm),
            head: leaf(head),
            twist: Twist::None,
        };
        let mut parameters = Parameters::default();
        for (name, tensor, decay) in [
            ("embed", &model.embed, Decay::Applies),
            ("mix", &model.mix, Decay::Applies),
            ("bias", &model.bias, Decay::Exempt),
            ("norm", &model.norm, Decay::Exempt),
            ("head", &model.head, Decay::Applies),
        ] {
            parameters.push(trained(name, tensor, decay, Gradient::EveryStep));
        }
        (model, parameters)
    }

    /// A model whose weights follow a formula, so that no generator is touched.
    pub(crate) fn new(twist: Twist) -> (Self, Parameters) {
        let wave = |shape: &[i64], phase: f64| {
            let count: i64 = shape.iter().product();
            let places = Tensor::arange(count, (Kind::Float, Device::Cpu));
            ((places * 1.7 + phase).sin() * 0.8).reshape(shape)
        };
        let (h, v) = (HIDDEN, VOCABULARY);
        let tensors = [
            wave(&[v, h], 0.1),
            wave(&[h, h], 0.2),
            wave(&[h], 0.3),
            Tensor::ones([h], (Kind::Float, Device::Cpu)),
            wave(&[v, h], 0.4),
        ];
        let (model, mut parameters) = Self::from_tensors(tensors);
        if let Twist::Expert(expert) = &twist {
            parameters.push(trained("expert", expert, Decay::Applies, Gradient::WhenRouted));
        }
        (Self { twist, ..model }, parameters)
    }
}

impl CausalLm for Tiny {
    fn hidden(&self, tokens: &Tokens<'_>, _: Option<&mut KvCache>, _: &Pass) -> Result<Hidden> {
        let x = Tensor::f_embedding(&self.embed, tokens.ids, -1, false, false)?; // [b, t, h]
        let bias = match self.twist {
            Twist::CutBias => self.bias.f_detach()?,
            // sqrt(b - b) is 0 with a slope of infinity, and infinity times 0 is not a number.
            Twist::SteepBias => self.bias.f_add(&(self.bias.f_sub(&self.bias.f_detach()?)?.f_sqrt()?))?,
            _ => self.bias.shallow_clone(),
        };
        let mut states = x.f_linear(&self.mix, Some(&bias))?.f_tanh()?.f_mul(&self.norm)?;
        let mut auxiliary_loss = None;
        let has = |id: i64| Ok::<_, tch::TchError>(tokens.ids.f_eq(id)?.f_any()?.f_int64_value(&[])? == 1);
        match &self.twist {
            Twist::NanAt(id) if has(*id)? => states = states.f_mul_scalar(f64::NAN)?,
            Twist::Expert(expert) if has(ROUTED)? => {
                states = states.f_add(&tokens.ids.f_eq(ROUTED)?.f_unsqueeze(-1)?.f_mul(expert)?)?;
            }
            Twist::Auxiliary(weight) => {
                let square = states.f_square()?.f_sum_dim_intlist(-1, false, Kind::Float)?; // [b, t]
                let real = match tokens.mask()? {
                    Some(mask) => square.f_masked_select(&mask)?,
                    None => square,
                };
                auxiliary_loss = Some(real.f_mean(Kind::Float)?.f_mul_scalar(*weight)?);
            }
            _ => {}
        }
        Ok(Hidden { states, auxiliary_loss })
    }

    fn logits(&self, states: &Tensor, _: &Pass) -> Result<Tensor> {
        Ok(states.f_linear::<&Tensor>(&self.head, None)?)
    }

    fn new_cache(&self, batch: i64, capacity: i64) -> Result<KvCache> {
        KvCache::new(0, batch, 1, capacity, 1, Kind::Float, Device::Cpu)
    }

    fn max_positions(&self) -> i64 {
        64
    }

    fn vocabulary_size(&self) -> i64 {
        VOCABULARY
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn kind(&self) -> Kind {
        Kind::Float
    }
}

/// A real decoder of one block whose final states pass a dropout: something random in every training step.
#[derive(Debug)]
pub(crate) struct DropoutLlama {
    inner: Llama2,
    dropout: f64,
}

impl DropoutLlama {
    /// A model with fresh weights drawn from `seed`, all of them trainable.
    pub(crate) fn new(seed: u64, dropout: f64) -> (Self, Parameters) {
        let fields = serde_json::json!({
            "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "hidden_act": "silu",
        });
        let serde_json::Value::Object(fields) = fields else { unreachable!() };
        let config = Config::read(&ConfigFile::from_fields("the test", fields)).unwrap();
        let weights = Initialized::new(&config.weights(), 0.3);
        generator::seed(Device::Cpu, seed).unwrap();
        let mut builder = Trainable::new();
        let inner = Llama2::load(config, &weights, Device::Cpu, Kind::Float, &mut builder).unwrap();
        (Self { inner, dropout }, builder.finish())
    }
}

impl CausalLm for DropoutLlama {
    fn hidden(&self, tokens: &Tokens<'_>, cache: Option<&mut KvCache>, pass: &Pass) -> Result<Hidden> {
        let hidden = self.inner.hidden(tokens, cache, pass)?;
        let states = hidden.states.f_dropout(self.dropout, pass.mode == Mode::Train)?;
        Ok(Hidden { states, ..hidden })
    }

    fn logits(&self, states: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.inner.logits(states, pass)
    }

    fn new_cache(&self, batch: i64, capacity: i64) -> Result<KvCache> {
        self.inner.new_cache(batch, capacity)
    }

    fn max_positions(&self) -> i64 {
        self.inner.max_positions()
    }

    fn vocabulary_size(&self) -> i64 {
        self.inner.vocabulary_size()
    }

    fn device(&self) -> Device {
        self.inner.device()
    }

    fn kind(&self) -> Kind {
        self.inner.kind()
    }
}

/// `count` samples of unequal lengths and prompts; ids follow a formula and stay below [`ROUTED`].
pub(crate) fn samples(count: usize) -> Vec<Sample> {
    (0..count)
        .map(|index| {
            let length = 3 + (5 * index) % 7;
            let ids = (0..length).map(|place| ((3 * index + place * place + place) % 10) as u32).collect();
            let supervised = (0..length).map(|place| place > index % 3).collect();
            Sample { ids, supervised, truncated: false }
        })
        .collect()
}

/// Batches of `size` in the samples' order, the same in every epoch.
pub(crate) fn in_order(count: usize, size: usize) -> impl Fn(u64) -> Result<Vec<Vec<usize>>, BoxError> {
    move |_| Ok((0..count).collect::<Vec<_>>().chunks(size).map(<[usize]>::to_vec).collect())
}

/// Batches of `size` in an order of each epoch's own, from the crate that the examples use.
pub(crate) fn shuffled(samples: &[Sample], size: usize) -> impl Fn(u64) -> Result<Vec<Vec<usize>>, BoxError> {
    let lengths: Vec<usize> = samples.iter().map(Sample::len).collect();
    move |epoch| Ok(ferrotune_data::batches(&lengths, size, 7, epoch, ferrotune_data::LastBatch::Keep)?)
}

/// Settings without warm-up whose steps are large enough to be seen.
pub(crate) fn settings() -> TrainingConfig {
    TrainingConfig {
        epochs: 1.0,
        batch_size: 2,
        learning_rate: 1e-2,
        warmup_ratio: 0.0,
        logging_steps: 1,
        ..TrainingConfig::default()
    }
}

/// Values of all trainable tensors, in order.
pub(crate) fn values(parameters: &Parameters) -> Vec<(String, Vec<f32>)> {
    let value = |trained: &Trained| Vec::<f32>::try_from(&trained.tensor.detach().reshape([-1])).unwrap();
    parameters.iter().map(|trained| (trained.name.clone(), value(trained))).collect()
}

/// The same as bits, so that 0 and -0 differ and a test that compares them means it.
pub(crate) fn bits(parameters: &Parameters) -> Vec<(String, Vec<u32>)> {
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    values(parameters).into_iter().map(|(name, values)| (name, bits(values))).collect()
}

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
