//! How much device memory a QLoRA training step takes, for models of published shapes with random weights.
//!
//! ```sh
//! cargo bench --bench qlora_memory                       # LLaMA-2-7B and Mixtral-8x7B, batch 1 x 2048 tokens, on a GPU
//! cargo bench --bench qlora_memory -- --only llama-2-7b
//! cargo bench --bench qlora_memory -- --tiny             # small shapes on the CPU: does the program work
//! ```
//!
//! NF4 in blocks of 64 with double quantization, bf16, LoRA with r 16 on every linear map (of Mixtral its experts too), blocks
//! recomputed, fused AdamW in f32. The figures are libtorch's allocator's; a CUDA context takes some 0.5 GB besides. Without a
//! GPU the program says so and stops.

use std::time::Instant;

use ferrotune::{
    AutoCausalLm, LoadOptions,
    adapters::{Lora, LoraConfig, Nf4, TargetModules},
    nn::{
        Pass, Result as ModelResult, Role, Tokens, WeightSource, WeightSpec,
        loss::{Labelled, causal_lm_loss},
        seam::Recompute,
    },
    tch::{Device, Kind, Tensor},
    torch::{AdamW, SharedTensor, backward, cuda, fused_adamw, memory},
};
use serde_json::{Map, Value, json};

const TOKENS: i64 = 2048;
const STEPS: usize = 3;
const RANK: i64 = 16;

type AnyError = Box<dyn std::error::Error>;

/// A model's shape.
struct Shape {
    name: &'static str,
    fields: Value,
    targets: &'static [&'static str],
    tokens: i64,
    /// Bytes that the step should stay within, on a GPU.
    target: Option<f64>,
}

const LLAMA_TARGETS: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const MIXTRAL_TARGETS: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"];

fn published() -> [Shape; 2] {
    let llama = json!({
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    });
    let mixtral = json!({
        "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 32768, "rope_theta": 1e6, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    });
    [
        Shape {
            name: "llama-2-7b",
            fields: llama,
            targets: LLAMA_TARGETS,
            tokens: TOKENS,
            target: Some(6e9),
        },
        Shape {
            name: "mixtral-8x7b",
            fields: mixtral,
            targets: MIXTRAL_TARGETS,
            tokens: TOKENS,
            target: Some(32e9),
        },
    ]
}

/// The same families, small.
fn tiny() -> [Shape; 2] {
    published().map(|shape| {
        let mut fields = shape.fields;
        for (field, value) in [
            ("vocab_size", 1000),
            ("hidden_size", 256),
            ("intermediate_size", 512),
            ("num_hidden_layers", 2),
            ("num_attention_heads", 4),
            ("num_key_value_heads", 2),
        ] {
            fields[field] = value.into();
        }
        Shape { fields, tokens: 128, target: None, ..shape }
    })
}

fn main() -> Result<(), AnyError> {
    // Where the kernels cannot be had, a line in the log says so.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let is_tiny = arguments.iter().any(|argument| argument == "--tiny");
    let device = match cuda::device(if is_tiny { "cpu" } else { "cuda" }) {
        Ok(device) => device,
        Err(reason) => {
            println!("nothing measured: {reason}");
            return Ok(());
        }
    };
    let mut found = Map::new();
    for shape in if is_tiny { tiny() } else { published() } {
        if only.is_none_or(|name| name == shape.name) {
            found.insert(shape.name.to_owned(), measure(&shape, device)?);
        }
    }
    println!("{}", Value::Object(found));
    Ok(())
}

fn measure(shape: &Shape, device: Device) -> Result<Value, AnyError> {
    let fields = shape.fields.as_object().cloned().unwrap_or_default();
    let open = AutoCausalLm::from_fields(shape.name, fields)?;
    let config = LoraConfig {
        r: RANK,
        lora_alpha: RANK as f64,
        target_modules: TargetModules::list(shape.targets.iter().copied()),
        ..LoraConfig::default()
    };
    let started = Instant::now();
    let mut builder = Lora::new(config, Nf4::default())?;
    let source = Noise::new(&open.weights());
    let model = open.load_from(&source, &LoadOptions::new(device, Kind::BFloat16), &mut builder)?;
    drop(source);
    let adapter = builder.finish()?;
    let parameters = adapter.parameters();
    println!(
        "{}: {} weights in {:.0} s, {} trained",
        shape.name,
        open.parameters().0,
        started.elapsed().as_secs_f64(),
        parameters.elements()
    );
    let loaded = memory::device(device)?;
    memory::reset_peak(device).ok();

    let vocabulary = model.vocabulary_size();
    let ids = Tensor::randint(vocabulary, [1, shape.tokens], (Kind::Int64, device));
    let supervised = Tensor::ones([1, shape.tokens], (Kind::Bool, device));
    let leaves: Vec<Tensor> = parameters.iter().map(|trained| trained.tensor.shallow_clone()).collect();
    let moments = || leaves.iter().map(Tensor::zeros_like).collect::<Vec<_>>();
    let (first, second) = (moments(), moments());
    let steps: Vec<Tensor> = leaves.iter().map(|_| Tensor::zeros([], (Kind::Float, device))).collect();
    let pass = Pass::train().with_recompute(Recompute::Blocks);
    let mut seconds = f64::INFINITY;
    for _ in 0..STEPS {
        let start = Instant::now();
        let batch = Labelled { tokens: Tokens::full(&ids), supervised: &supervised };
        let loss = causal_lm_loss(model.as_ref(), &batch, &pass)?;
        backward(&[(&(loss.negative_log_likelihood / loss.supervised_tokens as f64), None)])?;
        let gradients: Vec<Tensor> = leaves.iter().map(Tensor::grad).collect();
        // An expert without tokens has no gradient in this step.
        let with = (0..leaves.len()).filter(|&index| gradients[index].defined());
        let chosen = |tensors: &[Tensor]| -> Vec<Tensor> {
            with.clone().map(|index| tensors[index].shallow_clone()).collect()
        };
        let settings = AdamW { lr: 1e-4, ..AdamW::default() };
        let (trained, given) = (chosen(&leaves), chosen(&gradients));
        fused_adamw(&trained, &given, &chosen(&first), &chosen(&second), &chosen(&steps), &settings)?;
        drop((gradients, given));
        leaves.iter().for_each(|leaf| leaf.shallow_clone().zero_grad());
        memory::synchronize(device)?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    let tokens_per_second = shape.tokens as f64 / seconds;
    let Some(peak) = memory::device(device)? else {
        let host = memory::host_peak_bytes();
        println!(
            "  on the CPU: {tokens_per_second:.0} tokens/s, host peak {host:?} bytes of all shapes so far"
        );
        return Ok(json!({ "tokens_per_second": tokens_per_second, "host_peak_bytes": host }));
    };
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let loaded = loaded.map_or(0, |figures| figures.allocated);
    println!(
        "  loaded {:.2} GB, peak {:.2} GB allocated and {:.2} GB reserved, target {:.0} GB; {tokens_per_second:.0} tokens/s",
        gigabytes(loaded),
        gigabytes(peak.peak_allocated),
        gigabytes(peak.peak_reserved),
        shape.target.unwrap_or(0.0) / 1e9
    );
    Ok(json!({
        "loaded_bytes": loaded, "peak_allocated_bytes": peak.peak_allocated,
        "peak_reserved_bytes": peak.peak_reserved, "target_bytes": shape.target,
        "tokens_per_second": tokens_per_second,
    }))
}

/// Random weights that are views of one buffer, because drawing 47 billion of them would take longer than the measurement.
struct Noise {
    specs: Vec<WeightSpec>,
    buffer: SharedTensor, // bf16, as long as the largest weight
}

impl Noise {
    fn new(specs: &[WeightSpec]) -> Self {
        let largest = specs.iter().map(|spec| spec.shape.iter().product::<i64>()).max().unwrap_or(0);
        let buffer = Tensor::randn([largest], (Kind::Float, Device::Cpu)) * 0.02;
        Self { specs: specs.to_vec(), buffer: buffer.to_kind(Kind::BFloat16).into() }
    }

    fn spec(&self, name: &str) -> Option<&WeightSpec> {
        self.specs.iter().find(|spec| spec.name == name)
    }
}

impl WeightSource for Noise {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.spec(name).map(|spec| spec.shape.clone())
    }

    fn read(&self, name: &str) -> ModelResult<Tensor> {
        let spec = self.spec(name).ok_or_else(|| ferrotune::nn::Error::MissingTensor {
            name: name.to_owned(),
            place: self.place(),
        })?;
        if spec.role == Role::Norm {
            return Ok(Tensor::f_ones(&spec.shape, (Kind::BFloat16, Device::Cpu))?);
        }
        let count = spec.shape.iter().product();
        Ok(self.buffer.f_narrow(0, 0, count)?.f_view(spec.shape.as_slice())?)
    }

    fn names(&self) -> Vec<String> {
        self.specs.iter().map(|spec| spec.name.clone()).collect()
    }

    fn place(&self) -> String {
        "random weights".to_owned()
    }
}
