//! What a process holds while it quantizes a model and trains over it, read from the system's own account of a process
//! that does nothing else.

use std::{env, path::Path, process::Command};

use ferrotune_adapters::{Lora, LoraConfig, Nf4, TargetModules};
use ferrotune_llama2::Llama2;
use ferrotune_mixtral::{AuxiliaryLoss, Mixtral};
use ferrotune_nn::{
    CausalLm, Pass, Role, Tokens, WeightSource, WeightSpec,
    checkpoint::{Checkpoint, CheckpointWriter},
    config::ConfigFile,
    weights::Initialized,
};
use ferrotune_torch::{backward, memory};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::support::alone;

/// Where the child finds a checkpoint, and of which family; set by the parent.
const FOLDER: &str = "FERROTUNE_NF4_MEMORY_TEST_FOLDER";
const FAMILY: &str = "FERROTUNE_NF4_MEMORY_TEST_FAMILY";

/// One more than the packed product takes.
const TOKENS: i64 = 17;

/// What is not counted below while loading: headers, a piece of a file, and the slack of the allocator, which gives blocks
/// back by pages. About 4 MiB on an AVX-512 machine with glibc 2.36; a copy of the largest matrix in 32 bits is 48 MiB.
const LOADING: u64 = 8 << 20;

/// The same in a step: activations of 17 tokens and the scratch memory of libtorch's products. About 16 MiB there; every
/// matrix that a graph would keep is another 16 to 48 MiB.
const TRAINING: u64 = 24 << 20;

/// Few layers of large matrices: about 200 MB of weights in bf16, next to no embedding.
fn config(family: &str, large: bool) -> ConfigFile {
    let (hidden, inner) = match (family, large) {
        ("llama", true) => (2048, 6144),
        (_, true) => (1024, 4096),
        _ => (64, 128),
    };
    let mut fields = json!({
        "model_type": family, "vocab_size": 64, "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": if family == "llama" { 2 } else { 1 }, "num_attention_heads": 8,
        "num_key_value_heads": 8, "max_position_embeddings": 128, "rope_theta": 10000.0, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    });
    if family == "mixtral" {
        fields["num_local_experts"] = Value::from(8);
        fields["num_experts_per_tok"] = Value::from(2);
    }
    ConfigFile::from_fields("a test", fields.as_object().unwrap().clone())
}

fn specs(family: &str, file: &ConfigFile) -> Vec<WeightSpec> {
    match family {
        "llama" => ferrotune_llama2::Config::read(file).unwrap().weights(),
        _ => ferrotune_mixtral::Config::read(file).unwrap().weights(),
    }
}

/// Loads with LoRA on everything over four bits; gives what was quantized in bytes.
fn load(
    family: &str,
    file: &ConfigFile,
    source: &dyn WeightSource,
) -> (Box<dyn CausalLm>, ferrotune_adapters::LoraAdapter, u64) {
    let storage = Nf4::default();
    let census = storage.census();
    let lora = LoraConfig { r: 1, target_modules: TargetModules::AllLinear, ..LoraConfig::default() };
    let mut lora = Lora::new(lora, storage).unwrap();
    let (device, kind) = (Device::Cpu, Kind::Float);
    let model: Box<dyn CausalLm> = match family {
        "llama" => {
            let config = ferrotune_llama2::Config::read(file).unwrap();
            Box::new(Llama2::load(config, source, device, kind, &mut lora).unwrap())
        }
        _ => {
            let config = ferrotune_mixtral::Config::read(file).unwrap();
            let auxiliary = AuxiliaryLoss::Off;
            Box::new(Mixtral::load(config, auxiliary, source, device, kind, &mut lora).unwrap())
        }
    };
    let quantized = census.tallies().iter().filter(|tally| tally.quantized).map(|tally| tally.bytes).sum();
    (model, lora.finish().unwrap(), quantized)
}

fn step(model: &dyn CausalLm) {
    let ids = Tensor::arange(TOKENS, (Kind::Int64, Device::Cpu)).view([1, TOKENS]);
    let states = model.hidden(&Tokens::full(&ids), None, &Pass::train()).unwrap().states;
    let loss = model.logits(&states, &Pass::train()).unwrap().square().mean(Kind::Float);
    backward(&[(&loss, None)]).unwrap();
}

/// Not a test of its own: what the processes of the tests below run.
#[test]
fn child_of_the_memory_tests() {
    let (Some(folder), Ok(family)) = (env::var_os(FOLDER), env::var(FAMILY)) else { return };
    tch::set_num_threads(1);
    // Once with a tiny model, so that what the first use of everything takes is not counted.
    let tiny = config(&family, false);
    let (model, ..) = load(&family, &tiny, &Initialized::new(&specs(&family, &tiny), 0.02));
    step(model.as_ref());
    drop(model);
    let before = memory::host_resident_bytes().unwrap();
    let source = Checkpoint::open(Path::new(&folder)).unwrap();
    let (model, adapter, quantized) = load(&family, &config(&family, true), &source);
    let loaded = memory::host_peak_bytes().unwrap();
    step(model.as_ref());
    assert!(adapter.gradients().unwrap().len() > 2);
    let trained = memory::host_peak_bytes().unwrap();
    println!("figures {before} {loaded} {trained} {quantized}");
}

/// Resident bytes before loading, the peaks after loading and after a step, and the bytes of quantized weights.
fn measured(family: &str, write: impl Fn(&mut CheckpointWriter, &WeightSpec, &Tensor)) -> [u64; 4] {
    let folder = tempfile::tempdir().unwrap();
    let specs = specs(family, &config(family, true));
    let mut writer = CheckpointWriter::new(folder.path());
    for spec in &specs {
        let weight = Tensor::empty(&spec.shape, (Kind::BFloat16, Device::Cpu)).normal_(0.0, 0.02);
        write(&mut writer, spec, &weight);
    }
    writer.finish().unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "nf4_memory::child_of_the_memory_tests", "--test-threads", "1", "--nocapture"])
        .env(FOLDER, folder.path())
        .env(FAMILY, family)
        // Threads of the pool bring stacks and arenas of their own; two, whatever the machine.
        .env("RAYON_NUM_THREADS", "2")
        .env("OMP_NUM_THREADS", "1")
        // Tests run in threads, whose arenas glibc cannot trim at their upper end; programs load in their main thread.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().find_map(|line| line.split("figures ").nth(1));
    let figures = figures.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let figures: Vec<u64> = figures.split(' ').map(|figure| figure.parse().unwrap()).collect();
    figures.try_into().unwrap()
}

/// Holds the figures against what the arithmetic says.
///
/// `largest` is the number of weights of the largest matrix, `decoded` of the largest that is decoded at once, `dense` the
/// bytes of what is not quantized.
fn check(family: &str, figures: [u64; 4], largest: u64, decoded: u64, dense: u64) {
    let [before, loaded, trained, quantized] = figures;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (loading, training) = (loaded - before, trained - before);
    println!(
        "{family}: {:.1} MiB in 4 bits; loading takes {:.1} MiB more, a step {:.1} MiB",
        mib(quantized),
        mib(loading),
        mib(training)
    );
    // While loading: what is kept, and one matrix in the 16 bits of the file.
    assert!(loading <= quantized + dense + 2 * largest + LOADING, "{family}");
    // While training: what is kept, and the buffer in the 32 bits of the activations.
    assert!(training <= quantized + dense + 4 * decoded + TRAINING, "{family}");
    // The figures mean something: the quantized model is there.
    assert!(loading >= quantized, "{family}");
}

#[test]
fn a_dense_model_is_loaded_in_its_4_bits_and_one_matrix_and_trained_in_one_more() {
    let _alone = alone();
    let figures = measured("llama", |writer, spec, weight| writer.push(&spec.name, weight).unwrap());
    check("llama", figures, 2048 * 6144, 2048 * 6144, 2 * 64 * 2048 * 4);
}

#[test]
fn stacked_experts_are_loaded_one_matrix_at_a_time() {
    let _alone = alone();
    let stacks = std::cell::RefCell::new(Vec::new());
    let figures = measured("mixtral", |writer, spec, weight| {
        if spec.role != Role::Expert {
            return writer.push(&spec.name, weight).unwrap();
        }
        // In the specs an expert's w1, w3 and w2 follow each other.
        let mut stacks = stacks.borrow_mut();
        stacks.push(weight.shallow_clone());
        if stacks.len() == 24 {
            let experts = |part: usize| -> Vec<&Tensor> { stacks.iter().skip(part).step_by(3).collect() };
            let gate_up = Tensor::cat(&[Tensor::stack(&experts(0), 0), Tensor::stack(&experts(1), 0)], 1);
            writer.push("model.layers.0.mlp.experts.gate_up_proj", &gate_up).unwrap();
            writer.push("model.layers.0.mlp.experts.down_proj", &Tensor::stack(&experts(2), 0)).unwrap();
        }
    });
    check("mixtral", figures, 1024 * 4096, 2 * 1024 * 4096, 2 * 64 * 1024 * 4);
}
