use crate::{
    BlockSize, DYNAMIC_MAP, Error, Isa, NESTED_BLOCK_SIZE, Threads,
    dynamic::{mean, quantize_dynamic},
    error::{expect_len, expect_magnitudes},
    isa::Level,
};

/// The scales of a packed tensor, borrowed: one for each block, in f32 or quantized once more.
#[derive(Debug, Clone, Copy)]
pub enum Scales<'a> {
    /// `absmax` as it is.
    Plain(&'a [f32]),
    /// Double quantization: `absmax[i] = DYNAMIC_MAP[codes[i]] * absmax[i / 256] + offset`, rounded after each step.
    Nested {
        /// `absmax` of the file: one code for each block.
        codes: &'a [u8],
        /// `nested_absmax`: one entry for each 256 blocks.
        absmax: &'a [f32],
        /// `nested_offset`: the mean of the scales.
        offset: f32,
    },
}

impl Scales<'_> {
    /// Checks lengths for a tensor of `len` weights and that every number is finite, and every stored scale a magnitude. Decoded ones
    /// may lie a little below zero where the second level rounds.
    pub(crate) fn check(&self, block_size: BlockSize, len: usize) -> Result<(), Error> {
        let blocks = block_size.blocks(len);
        match *self {
            Self::Plain(absmax) => {
                expect_len("absmax", absmax.len(), blocks)?;
                expect_magnitudes("absmax", absmax)
            }
            Self::Nested { codes, absmax, offset } => {
                expect_len("nested codes", codes.len(), blocks)?;
                expect_len("nested_absmax", absmax.len(), blocks.div_ceil(NESTED_BLOCK_SIZE))?;
                expect_magnitudes("nested_absmax", absmax)?;
                expect_magnitudes("nested_offset", &[offset])
            }
        }
    }

    /// The scales of `out.len()` blocks from `first` on.
    pub(crate) fn decode(&self, isa: Isa, first: usize, out: &mut [f32]) {
        match *self {
            Self::Plain(absmax) => out.copy_from_slice(&absmax[first..first + out.len()]),
            Self::Nested { codes, absmax, offset } => {
                let codes = &codes[first..first + out.len()];
                let mut at = 0;
                while at < out.len() {
                    let nested = (first + at) / NESTED_BLOCK_SIZE;
                    let end = ((nested + 1) * NESTED_BLOCK_SIZE - first).min(out.len());
                    let scale = absmax[nested];
                    let (codes, out) = (&codes[at..end], &mut out[at..end]);
                    match isa.level() {
                        #[cfg(target_arch = "x86_64")]
                        Level::Avx512 => crate::simd::decode_scales_avx512(isa, codes, scale, offset, out),
                        _ => decode_scales(codes, scale, offset, out),
                    }
                    at = end;
                }
            }
        }
    }
}

/// The reference: scales of one second-level block.
///
/// Two roundings, as bitsandbytes has them: no fused multiply-add.
pub(crate) fn decode_scales(codes: &[u8], scale: f32, offset: f32, out: &mut [f32]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = DYNAMIC_MAP[usize::from(code)] * scale + offset;
    }
}

/// Quantizes scales once more and returns `nested_offset`, their mean.
///
/// `codes` has as many entries as `scales`, `absmax` one for each [`NESTED_BLOCK_SIZE`].
///
/// # Errors
///
/// Those of [`quantize_dynamic`].
pub fn quantize_scales(
    threads: Threads,
    scales: &[f32],
    codes: &mut [u8],
    absmax: &mut [f32],
) -> Result<f32, Error> {
    let offset = mean(scales);
    quantize_dynamic(threads, scales, offset, codes, absmax)?;
    Ok(offset)
}
