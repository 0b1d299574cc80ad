//! The 4-bit format on the CPU: quantize, dequantize and products, beside a plain copy, dense products and bitsandbytes.
//!
//! ```sh
//! cargo bench --bench nf4
//! FERROTUNE_PYTHON=path/to/python cargo bench --bench nf4   # an interpreter with bitsandbytes: adds its columns
//! ```
//!
//! A run is one operation, once to warm up, then [`CALLS`] times, of which the median counts.
//! Round after round the runs of all operations alternate, ours and the reference's, so that a noisy machine disturbs all of them alike;
//! ratios are taken within a round. There are two settings, the same for both sides:
//!
//! - *repeated*: one call follows the other. The packed matrix stays in the caches if they are large enough.
//! - *after other work*: before each call, outside its time, libtorch multiplies one row with another dense matrix. That evicts the caches and
//!   leaves libtorch's threads awake, as the rest of a model does in decoding.
//!
//! The matrix is 4096 x 4096 in 32 bits, with blocks of 64 and double quantization; both sides use two threads.

#[path = "reference/mod.rs"]
mod reference;

use std::{
    thread,
    time::{Duration, Instant},
};

use ferrotune::{
    adapters::Nf4,
    nn::{Dims, Role, Site, Storage as _, WeightSpec, Weights, weights::Initialized},
    tch::{self, Device, Kind, Tensor},
    torch::on_each_thread,
};
use ferrotune_nf4::{
    BlockSize, Codebook, Cpu, Isa, NESTED_BLOCK_SIZE, Packed, Scales, Threads, packed_len, quantize,
    quantize_scales,
};
use reference::Reference;
use serde_json::{Value, json};

const SIZE: usize = 4096;
const BLOCK: usize = 64;
const ROUNDS: usize = 9;
const THREADS: usize = 2;

/// Timed calls of a run, after one that is not; the reference's script has the same number.
const CALLS: usize = 7;

/// OpenMP's threads stay awake for some milliseconds after their last work. A run of one process begins when those of the other sleep.
const PAUSE: Duration = Duration::from_millis(50);

/// Rows of activations: a decoding step, small batches, a training micro-batch.
const BATCHES: [i64; 4] = [1, 8, 16, 256];

type AnyError = Box<dyn std::error::Error>;

/// The plain copy that memory speeds are compared with.
const COPY: &str = "copy of the dense matrix";

/// What happens between two calls of an operation; as the reference's script calls it.
const SETTINGS: [&str; 2] = ["repeated", "after other work"];

/// An operation under a clock.
struct Row<'a> {
    name: String,
    ours: Box<dyn FnMut() -> Result<(), AnyError> + 'a>,
    /// What the reference calls it.
    reference: Option<String>,
    /// The row of the dense product that it stands for.
    dense: Option<String>,
    /// Bytes that it reads and writes for each weight.
    bytes: Option<f64>,
    /// Medians of its runs, by setting and round.
    seconds: [Vec<f64>; SETTINGS.len()],
    reference_seconds: [Vec<f64>; SETTINGS.len()],
}

impl<'a> Row<'a> {
    fn new(name: &str, ours: impl FnMut() -> Result<(), AnyError> + 'a) -> Self {
        Self {
            name: name.to_owned(),
            ours: Box::new(ours),
            reference: None,
            dense: None,
            bytes: None,
            seconds: Default::default(),
            reference_seconds: Default::default(),
        }
    }

    fn beside(self, reference: &str) -> Self {
        Self { reference: Some(reference.to_owned()), ..self }
    }

    fn against(self, dense: &str) -> Self {
        Self { dense: Some(dense.to_owned()), ..self }
    }

    fn moves(self, bytes: f64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// The median of a run. `between` is done before each call, outside its time.
    fn run(&mut self, mut between: impl FnMut() -> Result<(), AnyError>) -> Result<f64, AnyError> {
        thread::sleep(PAUSE);
        let mut seconds = Vec::with_capacity(CALLS);
        for call in 0..=CALLS {
            between()?;
            let start = Instant::now();
            (self.ours)()?;
            if call > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        Ok(median(&seconds))
    }
}

fn main() -> Result<(), AnyError> {
    tch::set_num_threads(THREADS as i32);
    // As the adapters run them.
    let cpu = Cpu { isa: Isa::best(), threads: Threads::new(on_libtorchs_threads) };
    let mut reference = Reference::start("nf4_reference.py", &json!({ "size": SIZE, "threads": THREADS }))?;

    let dims = Dims::new(SIZE as i64, SIZE as i64);
    let source = Initialized::new(
        &[WeightSpec {
            name: "linear.weight".to_owned(),
            role: Role::Mlp,
            shape: dims.shape().to_vec(),
            alias: None,
        }],
        1.0,
    );
    let at = Weights::new(&source, Device::Cpu, Kind::Float).at("linear");
    let matrix = Nf4::default().matrix(&Site::new(Role::Mlp, dims), &at)?;
    let dense = matrix.rows(0..SIZE as i64)?;
    let other = dense.f_randn_like()?;

    let weights = Vec::<f32>::try_from(dense.reshape([-1]))?;
    let mut written = Quantized::new(weights.len());
    let mut kept = Quantized::new(weights.len());
    kept.write(cpu, &weights)?;
    let packed = kept.view(weights.len())?;
    let mut decoded = vec![0.0_f32; weights.len()];
    let mut halves = vec![half::bf16::ZERO; weights.len()];
    let copy = Tensor::empty_like(&dense);
    let activations: Vec<Tensor> =
        BATCHES.iter().map(|&rows| Tensor::randn([rows, SIZE as i64], (Kind::Float, Device::Cpu))).collect();

    let mut rows = vec![
        Row::new(COPY, || {
            copy.shallow_clone().f_copy_(&dense)?;
            Ok(())
        }),
        Row::new("quantize", || written.write(cpu, &weights)).beside("quantize"),
        // A weight is half a byte to read and four to write; scales are 1.6 % on top of that half.
        Row::new("dequantize to f32", || Ok(packed.dequantize(cpu, &mut decoded)?))
            .beside("dequantize")
            .moves(4.5),
        Row::new("dequantize to bf16", || Ok(packed.dequantize(cpu, &mut halves)?)).moves(2.5),
    ];
    for (count, x) in BATCHES.iter().zip(&activations) {
        let dense_name = format!("dense product, {count} rows");
        rows.push(Row::new(&dense_name, || {
            let _ = x.f_linear::<Tensor>(&dense, None)?;
            Ok(())
        }));
        let product = Row::new(&format!("packed product, {count} rows"), || {
            let _ = matrix.product(x, None)?;
            Ok(())
        });
        rows.push(product.beside(&format!("product {count}")).against(&dense_name));
    }
    let x = &activations[0];
    let in_eval = Row::new("packed product, 1 row, beside Linear4bit in eval", || {
        let _ = matrix.product(x, None)?;
        Ok(())
    });
    rows.push(in_eval.beside("linear4bit 1"));

    for _ in 0..ROUNDS {
        for row in &mut rows {
            for (index, setting) in SETTINGS.into_iter().enumerate() {
                let seconds = row.run(|| {
                    if index == 1 {
                        let _ = x.f_linear::<Tensor>(&other, None)?;
                    }
                    Ok(())
                })?;
                row.seconds[index].push(seconds);
                if let (Some(reference), Some(operation)) = (&mut reference, &row.reference) {
                    thread::sleep(PAUSE);
                    let seconds = reference.seconds(&format!("{setting}: {operation}"))?;
                    row.reference_seconds[index].push(seconds);
                }
            }
        }
    }
    report(&rows, cpu.isa, reference.as_ref());
    Ok(())
}

fn on_libtorchs_threads(body: &(dyn Fn() + Sync)) {
    if let Err(error) = on_each_thread(body) {
        eprintln!("on one thread: {error}");
    }
}

/// Codes and scales, written anew in every round.
struct Quantized {
    codes: Vec<u8>,
    absmax: Vec<f32>,
    scale_codes: Vec<u8>,
    nested: Vec<f32>,
    offset: f32,
}

impl Quantized {
    fn new(weights: usize) -> Self {
        let blocks = weights.div_ceil(BLOCK);
        Self {
            codes: vec![0; packed_len(weights)],
            absmax: vec![0.0; blocks],
            scale_codes: vec![0; blocks],
            nested: vec![0.0; blocks.div_ceil(NESTED_BLOCK_SIZE)],
            offset: 0.0,
        }
    }

    fn write(&mut self, cpu: Cpu, weights: &[f32]) -> Result<(), AnyError> {
        let Self { codes, absmax, scale_codes, nested, offset } = self;
        quantize(cpu, Codebook::Nf4, BlockSize::new(BLOCK)?, weights, codes, absmax)?;
        *offset = quantize_scales(cpu.threads, absmax, scale_codes, nested)?;
        Ok(())
    }

    fn view(&self, weights: usize) -> Result<Packed<'_>, AnyError> {
        let scales = Scales::Nested { codes: &self.scale_codes, absmax: &self.nested, offset: self.offset };
        Ok(Packed::new(Codebook::Nf4, BlockSize::new(BLOCK)?, weights, &self.codes, scales)?)
    }
}

/// Two lines an operation, then all of it as JSON.
fn report(rows: &[Row<'_>], isa: Isa, reference: Option<&Reference>) {
    let versions = reference.map_or_else(
        || "FERROTUNE_PYTHON is not set, so there is no reference beside it".to_owned(),
        |reference| format!("beside {}", reference.versions()),
    );
    println!(
        "{SIZE} x {SIZE}, block size {BLOCK}, double quantization, {THREADS} threads, {isa}; {ROUNDS} rounds of runs of {CALLS} calls: medians, and ratios as median (lowest to highest); {versions}"
    );
    let mut all = Vec::new();
    for (index, setting) in SETTINGS.into_iter().enumerate() {
        println!("\n{setting}");
        let find = |name: &str| rows.iter().find(|row| row.name == name).map(|row| &row.seconds[index]);
        for row in rows {
            let seconds = &row.seconds[index];
            let mut line = format!("{:<49} {:>8.3} ms", row.name, median(seconds) * 1e3);
            let mut entry =
                json!({ "operation": row.name, "setting": setting, "milliseconds": median(seconds) * 1e3 });
            let reference = &row.reference_seconds[index];
            if !reference.is_empty() {
                let times = Ratio::of(reference, seconds);
                line += &format!("   reference {:>8.3} ms, {} times", median(reference) * 1e3, times.text(1));
                entry["reference_milliseconds"] = json!(median(reference) * 1e3);
                entry["times_as_fast_as_the_reference"] = times.json();
            }
            if let (Some(bytes), Some(copy)) = (row.bytes, find(COPY)) {
                let rate = Ratio::of(copy, seconds).times(bytes / COPIED);
                line += &format!("   {} of a copy's bytes per second", rate.text(2));
                entry["of_a_copys_rate"] = rate.json();
            }
            if let Some(dense) = row.dense.as_deref().and_then(find) {
                let share = Ratio::of(seconds, dense);
                line += &format!("   {} of the dense product's time", share.text(2));
                entry["of_the_dense_time"] = share.json();
            }
            println!("{line}");
            all.push(entry);
        }
    }
    println!(
        "{}",
        json!({ "size": SIZE, "threads": THREADS, "isa": isa.to_string(), "rounds": ROUNDS, "results": all })
    );
}

/// Bytes of a weight that a copy reads and writes.
const COPIED: f64 = 2.0 * 4.0;

/// A ratio that was taken once a round.
struct Ratio {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Ratio {
    fn of(above: &[f64], below: &[f64]) -> Self {
        let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
        Self {
            median: median(&ratios),
            lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            highest: ratios.iter().copied().fold(0.0, f64::max),
        }
    }

    fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, lowest: self.lowest * factor, highest: self.highest * factor }
    }

    fn text(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.lowest, self.highest)
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "lowest": self.lowest, "highest": self.highest })
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
