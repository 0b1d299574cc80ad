//! The result does not depend on the threads that a caller lends.

use ferrotune_nf4::{
    BlockSize, Codebook, Cpu, Isa, NESTED_BLOCK_SIZE, Packed, PackedMatrix, Scales, Scratch, Threads,
    packed_len, quantize, quantize_scales,
};

use crate::Noise;

// Several tasks of every kernel.
const ROWS: usize = 1200;
const COLUMNS: usize = 520;

/// Runs nothing: all is left to the calling thread.
fn never(_: &(dyn Fn() + Sync)) {}

/// Five threads that run it twice each.
fn often(body: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                body();
                body();
            });
        }
    });
}

/// Bytes, scales and their second level, dequantized weights and products, all as bits.
fn everything(threads: Threads) -> (Vec<u8>, Vec<u8>, Vec<u32>) {
    let cpu = Cpu { isa: Isa::best(), threads };
    let (size, mut noise) = (BlockSize::default(), Noise(11));
    let (weights, x) = (noise.take(ROWS * COLUMNS), noise.take(3 * COLUMNS));
    let blocks = size.blocks(weights.len());
    let (mut bytes, mut scales) = (vec![0; packed_len(weights.len())], vec![0.0; blocks]);
    quantize(cpu, Codebook::Nf4, size, &weights, &mut bytes, &mut scales).unwrap();
    let (mut codes, mut absmax) = (vec![0; blocks], vec![0.0; blocks.div_ceil(NESTED_BLOCK_SIZE)]);
    let offset = quantize_scales(threads, &scales, &mut codes, &mut absmax).unwrap();
    let nested = Scales::Nested { codes: &codes, absmax: &absmax, offset };
    let packed = Packed::new(Codebook::Nf4, size, weights.len(), &bytes, nested).unwrap();
    let (mut dense, mut y) = (vec![0.0f32; weights.len()], vec![0.0f32; 3 * ROWS]);
    packed.dequantize(cpu, &mut dense).unwrap();
    let matrix = PackedMatrix::new(packed, ROWS, COLUMNS).unwrap();
    matrix.product(cpu, 3, &x, &mut y, &mut Scratch::default()).unwrap();
    let bits = scales.iter().chain(&absmax).chain(&dense).chain(&y).map(|number| number.to_bits()).collect();
    (bytes, codes, bits)
}

#[test]
fn lent_threads_give_the_bits_that_rayons_give() {
    let expected = everything(Threads::RAYON);
    assert!(everything(Threads::new(never)) == expected);
    assert!(everything(Threads::new(often)) == expected);
}

#[test]
fn a_bad_weight_is_named_whoever_meets_it() {
    let mut weights = Noise(12).take(1 << 18);
    weights[200_000] = f32::NAN;
    weights[70_001] = f32::INFINITY;
    let size = BlockSize::default();
    let (mut bytes, mut scales) = (vec![0; packed_len(weights.len())], vec![0.0; size.blocks(weights.len())]);
    for run in [never, often] {
        let cpu = Cpu { isa: Isa::best(), threads: Threads::new(run) };
        let error = quantize(cpu, Codebook::Nf4, size, &weights, &mut bytes, &mut scales).unwrap_err();
        assert!(matches!(error, ferrotune_nf4::Error::NotFinite { index: 70_001, .. }), "{error}");
    }
}
