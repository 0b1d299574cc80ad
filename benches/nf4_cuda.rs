//! The 4-bit kernels on a GPU: how near dequantizing comes to a device copy, and what a decoding step's products cost.
//!
//! ```sh
//! cargo bench --bench nf4_cuda
//! FERROTUNE_PYTHON=path/to/python cargo bench --bench nf4_cuda   # with torch and bitsandbytes for CUDA: adds their columns
//! cargo bench --bench nf4_cuda -- --tiny                         # small shapes on the CPU: does the program work
//! ```
//!
//! NF4 in blocks of 64 with double quantization, bf16. Every operation runs in rounds of many launches between two waits for
//! the device; medians over rounds are printed. Without a GPU the program says so and stops.

use std::{process::Command, time::Instant};

use ferrotune::{
    adapters::{Nf4, Quantization, QuantizedTensor},
    nn::{Dims, Role, Site, Storage as _, WeightSpec, Weights, weights::Initialized},
    tch::{self, Device, Kind, Tensor},
    torch::{cuda, memory},
};
use serde_json::{Map, Value, json};

const ROUNDS: usize = 9;

/// Matrices to unpack: one of a 7B's MLP, one of its attention, all of an expert layer's gate and up of Mixtral-8x7B. The
/// small ones fit in an H100's second-level cache, so that only the last measures memory.
const UNPACKED: [[i64; 2]; 3] = [[4096, 4096], [11_008, 4096], [8 * 28_672, 4096]];

/// Projections of a 7B.
const MULTIPLIED: [[i64; 2]; 3] = [[4096, 4096], [11_008, 4096], [4096, 11_008]];

const BATCHES: [i64; 6] = [1, 2, 4, 8, 16, 256];

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    // Where the kernels cannot be had, a line in the log says so.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let tiny = std::env::args().any(|argument| argument == "--tiny");
    let (unpacked, multiplied) =
        if tiny { (&[[256, 128]][..], &[[128, 264]][..]) } else { (&UNPACKED[..], &MULTIPLIED[..]) };
    let device = match cuda::device(if tiny { "cpu" } else { "cuda" }) {
        Ok(device) => device,
        Err(reason) => {
            println!("nothing measured: {reason}");
            return Ok(());
        }
    };
    tch::no_grad(|| -> Result<(), AnyError> {
        let mut found = Map::new();
        unpack(device, unpacked, &mut found)?;
        multiply(device, multiplied, &mut found)?;
        println!("{}", Value::Object(found));
        Ok(())
    })
}

/// Seconds of one call: the median over rounds of `launches` each.
fn seconds<T>(
    device: Device,
    launches: u32,
    mut run: impl FnMut() -> Result<T, AnyError>,
) -> Result<f64, AnyError> {
    let mut rounds = Vec::new();
    for _ in 0..=ROUNDS {
        memory::synchronize(device)?;
        let start = Instant::now();
        for _ in 0..launches {
            let _ = run()?;
        }
        memory::synchronize(device)?;
        rounds.push(start.elapsed().as_secs_f64() / f64::from(launches));
    }
    // The first round compiles, allocates and warms up.
    rounds.remove(0);
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2])
}

fn unpack(device: Device, shapes: &[[i64; 2]], found: &mut Map<String, Value>) -> Result<(), AnyError> {
    println!(
        "{:<28} {:>12} {:>12} {:>10} {:>12}",
        "dequantize to bf16", "time", "GB/s", "of copy", "quantize"
    );
    for &[rows, columns] in shapes {
        let weights = rows * columns;
        let dense = Tensor::randn([rows, columns], (Kind::BFloat16, device));
        let packed = QuantizedTensor::quantize(&dense, &Quantization::default())?;
        let quantize =
            seconds(device, 3, || Ok(QuantizedTensor::quantize(&dense, &Quantization::default())?))?;
        // libtorch's allocator hands the same memory out each time.
        let unpack = seconds(device, 20, || Ok(packed.dequantize(Kind::BFloat16)?))?;
        let mut copy = dense.f_empty_like()?;
        let copied = seconds(device, 20, || Ok(copy.f_copy_(&dense)?))?;
        let bandwidth = (packed.bytes() as f64 + 2.0 * weights as f64) / unpack;
        let of_copy = bandwidth / (4.0 * weights as f64 / copied);
        let name = format!("[{rows}, {columns}]");
        println!(
            "{name:<28} {:>9.1} us {:>12.0} {:>9.0}% {:>9.1} ms",
            unpack * 1e6,
            bandwidth / 1e9,
            of_copy * 100.0,
            quantize * 1e3
        );
        found.insert(format!("dequantize {name}"), json!({ "seconds": unpack, "of_copy": of_copy }));
    }
    Ok(())
}

fn multiply(device: Device, shapes: &[[i64; 2]], found: &mut Map<String, Value>) -> Result<(), AnyError> {
    let reference = reference(shapes)?;
    println!(
        "\n{:<28} {:>12} {:>12} {:>14} {:>10}",
        "x W^T, bf16", "packed", "dense", "bitsandbytes", "times"
    );
    for &[rows, columns] in shapes {
        let spec =
            WeightSpec { name: "m.weight".into(), role: Role::Mlp, shape: vec![rows, columns], alias: None };
        let source = Initialized::new(&[spec], 0.02);
        let root = Weights::new(&source, device, Kind::BFloat16);
        let site = Site::new(Role::Mlp, Dims::new(rows, columns));
        let matrix = Nf4::default().matrix(&site, &root.at("m"))?;
        let dense = matrix.rows(0..rows)?;
        for batch in BATCHES {
            let x = Tensor::randn([batch, columns], (Kind::BFloat16, device));
            let ours = seconds(device, 100, || Ok(matrix.product(&x, None)?))?;
            let theirs = seconds(device, 100, || Ok(x.f_linear::<&Tensor>(&dense, None)?))?;
            let name = format!("[{rows}, {columns}] x {batch}");
            let bitsandbytes = reference.get(&name).and_then(Value::as_f64);
            let micro = |seconds: f64| format!("{:.1} us", seconds * 1e6);
            println!(
                "{name:<28} {:>12} {:>12} {:>14} {:>10}",
                micro(ours),
                micro(theirs),
                bitsandbytes.map_or_else(|| "-".to_owned(), micro),
                bitsandbytes.map_or_else(|| "-".to_owned(), |seconds| format!("{:.2}", seconds / ours))
            );
            let row =
                json!({ "seconds": ours, "dense_seconds": theirs, "bitsandbytes_seconds": bitsandbytes });
            found.insert(name, row);
        }
    }
    Ok(())
}

/// What bitsandbytes takes, by the names of our rows; nothing if no interpreter is named.
fn reference(shapes: &[[i64; 2]]) -> Result<Map<String, Value>, AnyError> {
    let Some(python) = std::env::var_os("FERROTUNE_PYTHON") else { return Ok(Map::new()) };
    let cases: Vec<String> = shapes
        .iter()
        .flat_map(|[rows, columns]| BATCHES.map(|batch| format!("{rows},{columns},{batch}")))
        .collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/nf4_cuda_reference.py");
    let output = Command::new(python).arg(script).args(cases).output()?;
    if !output.status.success() {
        return Err(format!("{script} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(text.lines().last().unwrap_or_default())?)
}
