//! Products from packed bytes against exact ones.

use ferrotune_nf4::{
    BlockSize, Codebook, Isa, MOST_ROWS, NESTED_BLOCK_SIZE, Packed, PackedMatrix, Scales, Scratch, Threads,
    quantize_scales,
};
use half::bf16;

use crate::{CODEBOOKS, Noise, quantized};

/// Half of f32's relative spacing.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// The bound that `PackedMatrix::product` states: `n u / (1 - n u)`.
pub(crate) fn bound(columns: usize) -> f64 {
    let n = (columns / 4 + 32) as f64;
    n * U / (1.0 - n * U)
}

/// `x Wᵀ` in f64 and the sum of its terms' magnitudes, row by row of `x`.
pub(crate) fn exact_products(dense: &[f32], x: &[f32], columns: usize) -> Vec<(f64, f64)> {
    let pairs = x.chunks(columns).flat_map(|x| dense.chunks(columns).map(move |row| (x, row)));
    pairs
        .map(|(x, row)| {
            x.iter().zip(row).fold((0.0, 0.0), |(sum, terms), (&x, &weight)| {
                let term = f64::from(x) * f64::from(weight);
                (sum + term, terms + term.abs())
            })
        })
        .collect()
}

fn check(codebook: Codebook, size: BlockSize, rows: usize, columns: usize, batches: &[usize]) {
    let mut noise = Noise((rows * columns + size.get()) as u64);
    let weights = noise.take(rows * columns);
    let (bytes, scales) = quantized(Isa::SCALAR, codebook, size, &weights);
    let (mut codes, mut absmax) =
        (vec![0; scales.len()], vec![0.0; scales.len().div_ceil(NESTED_BLOCK_SIZE)]);
    let offset = quantize_scales(Threads::RAYON, &scales, &mut codes, &mut absmax).unwrap();
    let nested = Scales::Nested { codes: &codes, absmax: &absmax, offset };
    let mut scratch = Scratch::default();
    for scales in [Scales::Plain(&scales), nested] {
        let packed = Packed::new(codebook, size, weights.len(), &bytes, scales).unwrap();
        let mut dense = vec![0.0f32; weights.len()];
        packed.dequantize(Isa::SCALAR, &mut dense).unwrap();
        let matrix = PackedMatrix::new(packed, rows, columns).unwrap();
        for &batch in batches {
            let x = noise.take(batch * columns);
            let halves: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; batch * rows];
                matrix.product(isa, batch, &x, &mut y, &mut scratch).unwrap();
                let mut y_halves = vec![bf16::NAN; batch * rows];
                matrix.product(isa, batch, &halves, &mut y_halves, &mut scratch).unwrap();
                for (index, (&y, &y_half)) in y.iter().zip(&y_halves).enumerate() {
                    let (m, n) = (index / rows, index % rows);
                    let (mut exact, mut exact_half, mut size_of_terms) = (0.0f64, 0.0f64, 0.0f64);
                    for k in 0..columns {
                        let weight = f64::from(dense[n * columns + k]);
                        let (a, b) = (x[m * columns + k], halves[m * columns + k].to_f32());
                        exact += weight * f64::from(a);
                        exact_half += weight * f64::from(b);
                        size_of_terms += (weight * f64::from(a.abs().max(b.abs()))).abs();
                    }
                    let allowed = bound(columns) * size_of_terms;
                    let what =
                        format!("{codebook:?} {size:?} [{rows}, {columns}] batch {batch} {isa} at {index}");
                    assert!((f64::from(y) - exact).abs() <= allowed, "{what}: {y}, exact {exact}");
                    // A result in bf16 is rounded once more, by at most 2^-8 of itself.
                    let allowed = allowed + (exact_half.abs() + allowed) / 256.0;
                    let y_half = f64::from(y_half.to_f32());
                    assert!((y_half - exact_half).abs() <= allowed, "{what}: {y_half}, exact {exact_half}");
                }
            }
        }
    }
}

#[test]
fn every_batch_is_within_the_stated_bound() {
    let batches: Vec<usize> = (1..=MOST_ROWS).collect();
    for codebook in CODEBOOKS {
        check(codebook, BlockSize::default(), 35, 256, &batches);
    }
}

#[test]
fn every_block_size_is_within_the_stated_bound() {
    for size in BlockSize::ALL {
        check(Codebook::Nf4, size, 5, 4096, &[1, 3, 16]);
    }
}

#[test]
fn rows_that_fill_no_whole_step_or_straddle_blocks_are_within_the_stated_bound() {
    // One lane; less than a step of either kernel; blocks across rows; one past a segment; columns that are not a
    // multiple of 8, odd ones among them, where rows begin in the middle of a byte.
    for columns in [8, 40, 72, 136, 200, 4096 + 8, 4096 + 200, 2 * 4096 + 136, 1, 7, 33, 100, 515] {
        for size in [32, 64, 512] {
            check(Codebook::Nf4, BlockSize::new(size).unwrap(), 3, columns, &[1, 2, 9]);
        }
    }
}

#[test]
fn matrices_of_several_tasks_are_within_the_stated_bound() {
    check(Codebook::Nf4, BlockSize::default(), 1201, 520, &[1, 2]);
}

#[test]
fn one_row_and_none_work() {
    check(Codebook::Fp4, BlockSize::default(), 1, 128, &[1, 8]);
    let packed = Packed::new(Codebook::Nf4, BlockSize::default(), 0, &[], Scales::Plain(&[])).unwrap();
    let mut scratch = Scratch::default();
    PackedMatrix::new(packed, 0, 8)
        .unwrap()
        .product(Isa::best(), 1, &[0.0f32; 8], &mut [], &mut scratch)
        .unwrap();
    let mut y = [1.0f32; 2];
    PackedMatrix::new(packed, 2, 0)
        .unwrap()
        .product::<f32>(Isa::best(), 1, &[], &mut y, &mut scratch)
        .unwrap();
    assert_eq!(y, [0.0, 0.0]);
}
