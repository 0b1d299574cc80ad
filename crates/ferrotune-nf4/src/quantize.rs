use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    BlockSize, Codebook, Cpu, Element, Error, codebook::packed_len, error::expect_len, isa::Level, scalar,
};

/// About how many weights a task takes: enough to hide what scheduling costs, few enough to stay in the cache.
const TASK: usize = 1 << 15;

/// Quantizes weights into packed codes and one scale for each block.
///
/// `packed` holds [`packed_len`] bytes, `absmax` [`BlockSize::blocks`] entries; nothing is allocated. What the bytes
/// mean is written in `docs/nf4.md`.
///
/// # Errors
///
/// [`Error::Length`] for buffers of other lengths; [`Error::NotFinite`] for the first weight that is NaN or infinite, and
/// then what the buffers hold is unspecified.
///
/// ```
/// use ferrotune_nf4::{BlockSize, Codebook, Isa, quantize};
///
/// let weights: Vec<f32> = (0..65).map(|i| i as f32 - 32.0).collect();
/// let (mut packed, mut absmax) = (vec![0; 33], vec![0.0; 2]);
/// quantize(Isa::best(), Codebook::Nf4, BlockSize::new(64)?, &weights, &mut packed, &mut absmax)?;
/// assert_eq!(absmax, [32.0, 32.0]);
/// assert_eq!(packed[0], 0x00); // -32 and -31, both nearest to -1 times 32
/// # Ok::<(), ferrotune_nf4::Error>(())
/// ```
pub fn quantize<T: Element>(
    cpu: impl Into<Cpu>,
    codebook: Codebook,
    block_size: BlockSize,
    weights: &[T],
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), Error> {
    expect_len("packed weights", packed.len(), packed_len(weights.len()))?;
    expect_len("absmax", absmax.len(), block_size.blocks(weights.len()))?;
    let Cpu { isa, threads } = cpu.into();
    let size = block_size.get();
    let bounds = codebook.bounds();
    // A task is a whole number of blocks, and so of bytes.
    let task = TASK.max(size);
    let tasks = weights.chunks(task).zip(packed.chunks_mut(task / 2)).zip(absmax.chunks_mut(task / size));
    let finite = AtomicBool::new(true);
    threads.for_each(tasks, |((weights, packed), absmax)| {
        // Once a weight was not finite, the rest does not matter.
        if !finite.load(Ordering::Relaxed) {
            return;
        }
        let all = match isa.level() {
            Level::Scalar => scalar::quantize(bounds, size, weights, packed, absmax),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => crate::simd::quantize_avx2(isa, codebook, size, weights, packed, absmax),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => crate::simd::quantize_avx512(isa, codebook, size, weights, packed, absmax),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => crate::simd::quantize_neon(isa, codebook, size, weights, packed, absmax),
        };
        if !all {
            finite.store(false, Ordering::Relaxed);
        }
    });
    if finite.into_inner() {
        return Ok(());
    }
    // The cold path looks again, so that the first bad weight is named whichever task met one first.
    match weights.iter().position(|weight| !weight.to_f32().is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite { what: "weight", index, value: weights[index].to_f32() }),
    }
}
