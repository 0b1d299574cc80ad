use crate::{
    BlockSize, Codebook, Cpu, Element, Error, Isa, Scales, codebook::packed_len, error::expect_len,
    isa::Level, scalar,
};

/// Scales decoded at a time, on the stack.
const SCALES: usize = 256;

/// About how many weights a task unpacks: its output stays in the second-level cache.
const TASK: usize = 1 << 15;

/// Bytes of output from which on stores bypass the caches: more than a core's second level.
const STREAMED: usize = 16 << 20;

/// A packed tensor, borrowed and checked once; everything that reads packed bytes starts here.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    codebook: Codebook,
    block_size: BlockSize,
    len: usize,
    bytes: &'a [u8],
    scales: Scales<'a>,
}

impl<'a> Packed<'a> {
    /// A tensor of `len` weights, flattened row by row.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if `bytes` or a part of the scales does not fit `len`; [`Error::NotFinite`] if a scale is NaN or
    /// infinite, [`Error::NegativeScale`] if one is below zero.
    pub fn new(
        codebook: Codebook,
        block_size: BlockSize,
        len: usize,
        bytes: &'a [u8],
        scales: Scales<'a>,
    ) -> Result<Self, Error> {
        expect_len("packed weights", bytes.len(), packed_len(len))?;
        scales.check(block_size, len)?;
        Ok(Self { codebook, block_size, len, bytes, scales })
    }

    /// The number of weights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no weights.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn codebook(&self) -> Codebook {
        self.codebook
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn block_size(&self) -> usize {
        self.block_size.get()
    }

    pub(crate) fn scales(&self) -> Scales<'a> {
        self.scales
    }

    /// Unpacks the whole tensor into `out`.
    ///
    /// A weight is `table[code] * scale`, rounded to f32 and then to `T`. Nothing is allocated.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] if `out` has another length.
    pub fn dequantize<T: Element>(&self, cpu: impl Into<Cpu>, out: &mut [T]) -> Result<(), Error> {
        expect_len("output", out.len(), self.len)?;
        self.dequantize_range(cpu, 0, out)
    }

    /// Unpacks `out.len()` weights from the flat index `start` on.
    ///
    /// # Errors
    ///
    /// [`Error::Range`] if the range reaches past the end.
    pub fn dequantize_range<T: Element>(
        &self,
        cpu: impl Into<Cpu>,
        start: usize,
        out: &mut [T],
    ) -> Result<(), Error> {
        let Cpu { isa, threads } = cpu.into();
        let end = start.saturating_add(out.len());
        if end > self.len {
            return Err(Error::Range { start, end, len: self.len });
        }
        let size = self.block_size.get();
        let head = (start.next_multiple_of(size) - start).min(out.len());
        let (head, body) = out.split_at_mut(head);
        self.unpack_within_block(isa, start, head);
        let start = start + head.len();
        let task = TASK.max(size);
        // What does not fit in the caches anyway need not be read into them before it is overwritten.
        let past_caches = size_of_val(body) >= STREAMED;
        threads.for_each(body.chunks_mut(task).enumerate(), |(index, out)| {
            self.unpack_blocks(isa, start + index * task, past_caches, out);
        });
        Ok(())
    }

    /// Unpacks a range on the current thread.
    pub(crate) fn unpack<T: Element>(&self, isa: Isa, start: usize, out: &mut [T]) {
        let head = (start.next_multiple_of(self.block_size()) - start).min(out.len());
        let (head, body) = out.split_at_mut(head);
        self.unpack_within_block(isa, start, head);
        self.unpack_blocks(isa, start + head.len(), false, body);
    }

    /// Unpacks a range that ends where its block does, or before.
    fn unpack_within_block<T: Element>(&self, isa: Isa, start: usize, out: &mut [T]) {
        if !out.is_empty() {
            let mut scale = [0.0];
            self.scales.decode(isa, start / self.block_size(), &mut scale);
            scalar::dequantize_block(self.codebook.table(), self.bytes, start, scale[0], out);
        }
    }

    /// Unpacks a range that starts where a block does.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(unused_variables, reason = "only AVX-512 has two ways to store")
    )]
    fn unpack_blocks<T: Element>(&self, isa: Isa, start: usize, past_caches: bool, out: &mut [T]) {
        let size = self.block_size();
        let mut scales = [0.0; SCALES];
        for (index, out) in out.chunks_mut(SCALES * size).enumerate() {
            let start = start + index * SCALES * size;
            let scales = &mut scales[..out.len().div_ceil(size)];
            self.scales.decode(isa, start / size, scales);
            let packed = &self.bytes[start / 2..(start + out.len()).div_ceil(2)];
            match isa.level() {
                Level::Scalar => scalar::dequantize(self.codebook.table(), size, packed, scales, out),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => {
                    crate::simd::dequantize_avx2(isa, self.codebook.table(), size, packed, scales, out);
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => {
                    let table = self.codebook.table();
                    crate::simd::dequantize_avx512(isa, table, size, packed, scales, past_caches, out);
                }
                #[cfg(target_arch = "aarch64")]
                Level::Neon => {
                    crate::simd::dequantize_neon(isa, self.codebook.table(), size, packed, scales, out);
                }
            }
        }
    }
}
