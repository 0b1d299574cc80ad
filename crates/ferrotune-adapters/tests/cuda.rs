//! Four bits on a GPU against the CPU: the same bytes, the same weights, products within their bounds.
//!
//! A binary of its own: libtorch keeps its first answer about CUDA. Without a GPU each test says that it is skipped.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Arc, Mutex},
};

use ferrotune_adapters::{BlockScales, BlockSize, Codebook, Error, Nf4, Quantization, QuantizedTensor};
use ferrotune_nn::{
    Dims, GroupedMatrix, GroupedSite, Matrix, Part, Role, RowGroups, Site, Storage, WeightSource, Weights,
};
use ferrotune_torch::cuda;
use tch::{Device, Kind, Tensor};

/// The device, or a line that says why the test is left out.
fn cuda_device() -> Option<Device> {
    let device = cuda::is_available().then_some(Device::Cuda(0));
    if device.is_none() {
        let _ = writeln!(std::io::stderr(), "skipped: no CUDA device ({})", cuda::load());
    }
    device
}

/// Half of f32's relative spacing.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Half of the relative spacing of the types that kernels know.
const KINDS: [(Kind, f64); 3] =
    [(Kind::Float, U), (Kind::Half, 1.0 / (1 << 11) as f64), (Kind::BFloat16, 1.0 / (1 << 8) as f64)];

fn settings() -> Vec<Quantization> {
    let books = [Codebook::Nf4, Codebook::Fp4];
    let with = |codebook| {
        BlockSize::ALL.into_iter().flat_map(move |block_size| {
            [false, true].map(|double_quantization| Quantization {
                codebook,
                block_size,
                double_quantization,
            })
        })
    };
    books.into_iter().flat_map(with).collect()
}

fn normal(shape: &[i64], seed: i64) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// Tensors on the CPU have the same bits.
fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bytes =
        |tensor: &Tensor| tensor.to_device(Device::Cpu).contiguous().view([-1]).view_dtype(Kind::Uint8);
    a.kind() == b.kind() && a.size() == b.size() && bytes(a).equal(&bytes(b))
}

#[test]
fn a_gpu_quantizes_to_the_cpus_bytes() {
    let Some(device) = cuda_device() else { return };
    // Odd, short last blocks, subnormal and zero blocks.
    let weight = Tensor::cat(
        &[
            normal(&[70_001], 1),
            normal(&[4096], 2) * 1e-39,
            Tensor::zeros([4100], (Kind::Float, Device::Cpu)),
        ],
        0,
    );
    for settings in settings() {
        for (kind, _) in KINDS {
            let weight = weight.to_kind(kind);
            let host = QuantizedTensor::quantize(&weight, &settings).unwrap();
            let there = QuantizedTensor::quantize(&weight.to_device(device), &settings).unwrap();
            assert_eq!(there.kind(), kind);
            assert!(same_bits(host.codes(), there.codes()), "{settings:?} {kind:?}: codes");
            match (host.scales(), there.scales()) {
                (BlockScales::Plain(a), BlockScales::Plain(b)) => {
                    assert!(same_bits(a, b), "{settings:?} {kind:?}")
                }
                (
                    BlockScales::Nested { codes, absmax, offset },
                    BlockScales::Nested { codes: codes_there, absmax: absmax_there, offset: offset_there },
                ) => {
                    assert!(
                        same_bits(codes, codes_there) && same_bits(absmax, absmax_there),
                        "{settings:?} {kind:?}"
                    );
                    assert_eq!(offset.to_bits(), offset_there.to_bits());
                }
                _ => panic!("{settings:?}"),
            }
        }
    }
}

#[test]
fn a_gpu_names_the_first_weight_that_is_not_finite() {
    let Some(device) = cuda_device() else { return };
    for (index, value) in [(0, f64::NAN), (77, f64::INFINITY), (99_999, f64::NEG_INFINITY)] {
        let weight = normal(&[100_000], 3);
        let _ = weight.get(index).fill_(value);
        let _ = weight.get(99_999).fill_(value);
        for settings in settings() {
            let error = QuantizedTensor::quantize(&weight.to_device(device), &settings).unwrap_err();
            let Error::Format(ferrotune_nf4::Error::NotFinite { index: found, .. }) = error else {
                panic!("{error}")
            };
            assert_eq!(found, index as usize, "{settings:?}");
        }
    }
}

#[test]
fn a_gpu_decodes_to_the_cpus_bits() {
    let Some(device) = cuda_device() else { return };
    for (shape, seed) in [([301, 264], 4), ([7, 4096], 5), ([33, 65], 6)] {
        let weight = normal(&shape, seed);
        for settings in settings() {
            let host = QuantizedTensor::quantize(&weight, &settings).unwrap();
            let there = host.to_device(device).unwrap();
            for (kind, _) in KINDS {
                let what = format!("{shape:?} {settings:?} {kind:?}");
                assert!(
                    same_bits(&host.dequantize(kind).unwrap(), &there.dequantize(kind).unwrap()),
                    "{what}"
                );
                // Ranges from the middle of a block, which kernels take in multiples of 8 weights and libtorch the rest.
                for rows in [0..1, 1..2, 3..7] {
                    let (a, b) =
                        (host.rows(rows.clone(), kind).unwrap(), there.rows(rows.clone(), kind).unwrap());
                    assert!(same_bits(&a, &b), "{what}, rows {rows:?}");
                }
            }
        }
    }
}

/// Tensors in memory. [`Tensor`] is not `Sync`, and sources are.
struct Memory(Mutex<BTreeMap<String, Tensor>>);

impl WeightSource for Memory {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.0.lock().unwrap().get(name).map(Tensor::size)
    }

    fn read(&self, name: &str) -> ferrotune_nn::Result<Tensor> {
        Ok(self.0.lock().unwrap()[name].shallow_clone())
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

fn matrix(source: &Memory, dims: Dims, device: Device, kind: Kind) -> Arc<dyn Matrix> {
    let root = Weights::new(source, device, kind);
    Nf4::default().matrix(&Site::new(Role::Attention, dims), &root.at("m")).unwrap()
}

/// How far `found` is from `x Wᵀ` in f64, in units of what is allowed: sums of `columns` terms in f32, in any order, and the
/// rounding of weights (if they are) and of the result to the type.
fn excess(found: &Tensor, x: &Tensor, weight: &Tensor, ulp: f64) -> f64 {
    let (x, weight) = (x.to_kind(Kind::Double), weight.to_kind(Kind::Double));
    let exact = x.matmul(&weight.tr());
    let terms = x.abs().matmul(&weight.abs().tr());
    let columns = weight.size()[1] as f64;
    let allowed = terms * (columns * U / (1.0 - columns * U) + ulp) + exact.abs() * ulp;
    let found = found.to_device(Device::Cpu).to_kind(Kind::Double);
    ((found - exact).abs() / (allowed + f64::MIN_POSITIVE)).max().double_value(&[])
}

#[test]
fn products_on_a_gpu_are_within_the_bound_for_every_batch() {
    let Some(device) = cuda_device() else { return };
    // Whole steps and parts of one, rows of 4-byte lanes, and columns that only dequantizing serves.
    for (rows, columns) in [(64, 4096), (37, 1120), (130, 264), (5, 8), (9, 100)] {
        let dims = Dims::new(rows, columns);
        let source = Memory(Mutex::new([("m.weight".to_owned(), normal(&[rows, columns], 7))].into()));
        for (kind, ulp) in KINDS {
            let host = matrix(&source, dims, Device::Cpu, Kind::Float).rows(0..rows).unwrap();
            let there = matrix(&source, dims, device, kind);
            for batch in (1..=17).chain([40]) {
                let x = normal(&[batch, columns], batch).to_kind(kind);
                let on_device = x.to_device(device);
                let y = there.product(&on_device, None).unwrap();
                let over = excess(&y, &x, &host, ulp);
                assert!(over <= 1.0, "[{rows}, {columns}] x {batch} {kind:?}: {over}");
                // A view that does not begin at 16 bytes.
                let shifted =
                    Tensor::zeros([batch * columns + 1], (kind, device)).narrow(0, 1, batch * columns);
                let mut shifted = shifted.view([batch, columns]);
                shifted.copy_(&on_device);
                assert!(y.equal(&there.product(&shifted, None).unwrap()));
            }
            let g = normal(&[40, rows], 8).to_kind(kind);
            let back = there.product_transposed(&g.to_device(device)).unwrap();
            let over = excess(&back, &g, &host.tr(), ulp);
            assert!(over <= 1.0, "[{rows}, {columns}] transposed {kind:?}: {over}");
        }
    }
}

const EXPERTS: i64 = 4;
const WIDTH: i64 = 64;

fn group(source: &Memory, device: Device, kind: Kind) -> Arc<dyn GroupedMatrix> {
    let part = |name| Part { name, out_features: 96 };
    let site = GroupedSite {
        experts: EXPERTS,
        in_features: WIDTH,
        parts: vec![part("w1"), part("w3")],
        stacked_name: "mlp.experts.gate_up_proj",
    };
    let at = Weights::new(source, device, kind).at("experts");
    Nf4::default().grouped_matrix(&site, &at).unwrap()
}

#[test]
fn experts_on_a_gpu_give_the_cpus_products_whoever_has_rows() {
    let Some(device) = cuda_device() else { return };
    let mut tensors = BTreeMap::new();
    for expert in 0..EXPERTS {
        for part in ["w1", "w3"] {
            let name = format!("experts.{expert}.{part}.weight");
            tensors.insert(name, normal(&[96, WIDTH], 10 * expert + i64::from(part == "w3")));
        }
    }
    let source = Memory(Mutex::new(tensors));
    // Few rows in all, some without any, many; the buffer then holds what other experts left there.
    for counts in [[1i64, 0, 2, 0], [0, 0, 0, 40], [30, 0, 7, 0], [13, 50, 1, 99]] {
        for (kind, ulp) in KINDS {
            let host = group(&source, Device::Cpu, Kind::Float);
            let there = group(&source, device, kind);
            let groups = RowGroups::from_counts(&Tensor::from_slice(&counts).to_device(device)).unwrap();
            let rows = counts.iter().sum();
            let (x, g) = (normal(&[rows, WIDTH], 50).to_kind(kind), normal(&[rows, 192], 51).to_kind(kind));
            let y = there.product(&x.to_device(device), &groups).unwrap();
            let back = there.product_transposed(&g.to_device(device), &groups).unwrap();
            let mut start = 0;
            for (expert, &count) in (0..).zip(&counts) {
                let weight = host.expert(expert).unwrap();
                if count > 0 {
                    let part = |tensor: &Tensor| tensor.narrow(0, start, count);
                    let over = excess(&part(&y), &part(&x), &weight, ulp);
                    assert!(over <= 1.0, "{counts:?} {kind:?}, expert {expert}: {over}");
                    let over = excess(&part(&back), &part(&g), &weight.tr(), ulp);
                    assert!(over <= 1.0, "{counts:?} {kind:?}, expert {expert} transposed: {over}");
                }
                start += count;
            }
        }
    }
}
