//! The 4-bit format on the CPU: quantize, dequantize and products, beside a plain copy, dense products and bitsandbytes.
//!
//! ```sh
//! cargo bench --bench nf4
//! FERROTUNE_PYTHON=path/to/python cargo bench --bench nf4   # an interpreter with bitsandbytes: adds its columns
//! ```
//!
//! Round after round every operation runs once, ours and the reference's in turn, and medians over rounds are compared,
//! so that a noisy machine disturbs all of them alike. The matrix is 4096 x 4096 in 32 bits, with blocks of 64 and double
//! quantization; both sides use two threads.

#[path = "reference/mod.rs"]
mod reference;

use std::time::Instant;

use ferrotune::{
    adapters::Nf4,
    nn::{Dims, Role, Site, Storage as _, WeightSpec, Weights, weights::Initialized},
    tch::{self, Device, Kind, Tensor},
};
use ferrotune_nf4::{
    BlockSize, Codebook, Isa, NESTED_BLOCK_SIZE, Packed, Scales, packed_len, quantize, quantize_scales,
};
use reference::Reference;
use serde_json::json;

const SIZE: usize = 4096;
const BLOCK: usize = 64;
const ROUNDS: usize = 15;
const THREADS: usize = 2;

/// Rows of activations: a decoding step, small batches, a training micro-batch.
const BATCHES: [i64; 4] = [1, 8, 16, 256];

type AnyError = Box<dyn std::error::Error>;

/// The plain copy that memory speeds are compared with.
const COPY: &str = "copy of the dense matrix";

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
    seconds: Vec<f64>,
    reference_seconds: Vec<f64>,
}

impl<'a> Row<'a> {
    fn new(name: &str, ours: impl FnMut() -> Result<(), AnyError> + 'a) -> Self {
        Self {
            name: name.to_owned(),
            ours: Box::new(ours),
            reference: None,
            dense: None,
            bytes: None,
            seconds: Vec::new(),
            reference_seconds: Vec::new(),
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
}

fn main() -> Result<(), AnyError> {
    tch::set_num_threads(THREADS as i32);
    rayon::ThreadPoolBuilder::new().num_threads(THREADS).build_global()?;
    let isa = Isa::best();
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

    let weights = Vec::<f32>::try_from(dense.reshape([-1]))?;
    let mut written = Quantized::new(weights.len());
    let mut kept = Quantized::new(weights.len());
    kept.write(isa, &weights)?;
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
        Row::new("quantize", || written.write(isa, &weights)).beside("quantize"),
        // A weight is half a byte to read and four to write; scales are 1.6 % on top of that half.
        Row::new("dequantize to f32", || Ok(packed.dequantize(isa, &mut decoded)?))
            .beside("dequantize")
            .moves(4.5),
        Row::new("dequantize to bf16", || Ok(packed.dequantize(isa, &mut halves)?)).moves(2.5),
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

    for round in 0..=ROUNDS {
        for row in &mut rows {
            let start = Instant::now();
            (row.ours)()?;
            let seconds = start.elapsed().as_secs_f64();
            let reference = match (&mut reference, &row.reference) {
                (Some(reference), Some(operation)) => Some(reference.seconds(operation)?),
                _ => None,
            };
            if round > 0 {
                row.seconds.push(seconds); // the first round warms up
                row.reference_seconds.extend(reference);
            }
        }
    }
    print(&rows, isa, reference.as_ref());
    Ok(())
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

    fn write(&mut self, isa: Isa, weights: &[f32]) -> Result<(), AnyError> {
        let Self { codes, absmax, scale_codes, nested, offset } = self;
        quantize(isa, Codebook::Nf4, BlockSize::new(BLOCK)?, weights, codes, absmax)?;
        *offset = quantize_scales(absmax, scale_codes, nested)?;
        Ok(())
    }

    fn view(&self, weights: usize) -> Result<Packed<'_>, AnyError> {
        let scales = Scales::Nested { codes: &self.scale_codes, absmax: &self.nested, offset: self.offset };
        Ok(Packed::new(Codebook::Nf4, BlockSize::new(BLOCK)?, weights, &self.codes, scales)?)
    }
}

/// One line an operation: milliseconds, and what the issue is about, the ratios.
fn print(rows: &[Row<'_>], isa: Isa, reference: Option<&Reference>) {
    let versions = reference.map_or_else(
        || "FERROTUNE_PYTHON is not set, so there is no reference beside it".to_owned(),
        |reference| format!("beside {}", reference.versions()),
    );
    println!(
        "{SIZE} x {SIZE}, block size {BLOCK}, double quantization, {THREADS} threads, {isa:?}; medians of {ROUNDS} rounds; {versions}"
    );
    let find = |name: &str| rows.iter().find(|row| row.name == name).map(|row| median(&row.seconds));
    let copied = 2.0 * 4.0; // bytes of a weight that a copy reads and writes
    let copy_rate = find(COPY).map(|seconds| copied / seconds);
    for row in rows {
        let seconds = median(&row.seconds);
        let mut line = format!("{:<52} {:>9.3} ms", row.name, seconds * 1e3);
        if !row.reference_seconds.is_empty() {
            let reference = median(&row.reference_seconds);
            line += &format!("   reference {:>9.3} ms, {:.1} times", reference * 1e3, reference / seconds);
        }
        if let (Some(bytes), Some(copy_rate)) = (row.bytes, copy_rate) {
            line += &format!("   {:.2} of a copy's bytes per second", bytes / seconds / copy_rate);
        }
        if let Some(dense) = row.dense.as_deref().and_then(find) {
            line += &format!("   {:.2} of the dense product's time", seconds / dense);
        }
        println!("{line}");
    }
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
