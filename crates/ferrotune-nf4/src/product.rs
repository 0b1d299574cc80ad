//! `x Wᵀ` for a few rows of activations, straight from packed bytes.
//!
//! A row of W is read as 32-bit words of eight codes, one word to a lane. A lane's eight weights lie in one block, because
//! blocks are multiples of 32 and rows multiples of 8, so a scale for each lane suffices, whatever the block size and
//! however blocks straddle rows; kernels pick it from the scales of the sixteen blocks that a step can touch. Activations are laid out once to match: word position by word position ("plane"), lane by
//! lane.

use crate::{Cpu, Element, Error, Isa, Packed, error::expect_len, isa::Level};

/// The most rows of activations that a packed product takes; beyond them dequantizing once is cheaper.
pub const MOST_ROWS: usize = 16;

/// Weights to a lane: the codes of a 32-bit word.
pub(crate) const PER_LANE: usize = 8;

/// Columns whose scales are decoded at a time, on the stack. A multiple of every kernel's step.
pub(crate) const SEGMENT: usize = 4096;

/// Lanes of the longest vector.
pub(crate) const MOST_LANES: usize = 16;

/// Room for the scales of a segment that begins within a block of 32, and for a vector of them from the last one on.
pub(crate) const SCALES: usize = SEGMENT / 32 + 1 + MOST_LANES;

/// Activations that stay in the first-level cache beside a row's bytes and scales: 32 KiB.
const CACHED: usize = 8192;

/// Rows of W that a kernel works on at a time.
pub(crate) const ROWS: usize = 2;

/// Bytes of a cache line, and of the longest vector.
const CACHE_LINE: usize = 64;

/// About how many weights of W a task multiplies: some microseconds, below which a second thread costs more than it saves.
const TASK: usize = 1 << 18;

/// A piece of a packed row, up to [`SEGMENT`] columns, as kernels read it.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    /// A multiple of four.
    pub(crate) bytes: &'a [u8],
    /// One for each block, and then at least [`MOST_LANES`] zeros.
    pub(crate) scales: &'a [f32; SCALES],
    /// Block sizes are powers of two: this one.
    pub(crate) shift: u32,
    /// How many weights of the first block come before the piece.
    pub(crate) phase: usize,
}

/// Which element of its eight a lane finds at bits `4 * plane` of its word: the high nibble of a byte comes first.
const PLANE: [usize; PER_LANE] = [1, 0, 3, 2, 5, 4, 7, 6];

/// Reused memory of products: the activations in the kernels' order and the results before they are turned.
///
/// Grows with the first calls and is then never allocated again for the same shapes.
#[derive(Debug, Default, Clone)]
pub struct Scratch {
    activations: Vec<f32>,
    results: Vec<f32>,
}

/// A packed `[rows, columns]` matrix: output features by input features.
#[derive(Debug, Clone, Copy)]
pub struct PackedMatrix<'a> {
    packed: Packed<'a>,
    rows: usize,
    columns: usize,
}

impl<'a> PackedMatrix<'a> {
    /// Reads a packed tensor as a matrix.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if it does not have `rows * columns` weights.
    pub fn new(packed: Packed<'a>, rows: usize, columns: usize) -> Result<Self, Error> {
        if rows.checked_mul(columns) == Some(packed.len()) {
            Ok(Self { packed, rows, columns })
        } else {
            Err(Error::Shape { rows, columns, len: packed.len() })
        }
    }

    /// Writes `x Wᵀ` into `y`.
    ///
    /// `x` is `[batch, columns]`, `y` is `[batch, rows]`, with a batch of 1 to [`MOST_ROWS`]. Sums are in f32. With `u = 2⁻²⁴`
    /// and `n = columns / 4 + 32`, each sum is, barring underflow, within `n u / (1 - n u) · Σ |x| |w|` of the exact product with the
    /// dequantized weights, and is then rounded to `T`. Columns that are no multiple of 8 take a slower path.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] for a batch of 0 or more than [`MOST_ROWS`], [`Error::Length`] if `x` or `y` does not fit. NaN and
    /// infinite activations go through to the rows they belong to.
    pub fn product<T: Element>(
        &self,
        cpu: impl Into<Cpu>,
        batch: usize,
        x: &[T],
        y: &mut [T],
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        if batch == 0 || batch > MOST_ROWS {
            return Err(Error::Batch { most: MOST_ROWS, found: batch });
        }
        expect_len("activations", x.len(), batch * self.columns)?;
        expect_len("output", y.len(), batch * self.rows)?;
        if self.rows == 0 || self.columns == 0 {
            y.fill(T::from_f32(0.0));
            return Ok(());
        }
        let Cpu { isa, threads } = cpu.into();
        let lanes = if self.columns.is_multiple_of(PER_LANE) { lanes(isa) } else { 1 };
        let tile = if lanes == 1 { 1 } else { tile(isa) };
        let Scratch { activations, results } = scratch;
        let activations = arrange(x, batch, self.columns, lanes, tile, activations);
        results.resize(self.rows * batch, 0.0);
        let rows = (TASK / self.columns).next_multiple_of(ROWS).max(ROWS);
        threads.for_each(results.chunks_mut(rows * batch).enumerate(), |(task, out)| {
            if lanes == 1 {
                self.reference(isa, task * rows, activations, batch, out);
            } else {
                self.rows_of_task(isa, task * rows, activations, batch, tile, out);
            }
        });
        for (m, y) in y.chunks_mut(self.rows).enumerate() {
            for (y, result) in y.iter_mut().zip(results.chunks(batch)) {
                *y = T::from_f32(result[m]);
            }
        }
        Ok(())
    }

    /// Rows from `first` on, dequantized a piece at a time and multiplied in eight lanes. `out` is `[rows, batch]`.
    fn reference(&self, isa: Isa, first: usize, x: &[f32], batch: usize, out: &mut [f32]) {
        let mut weights = [0.0f32; 256];
        for (row, out) in out.chunks_mut(batch).enumerate() {
            let mut sums = [[0.0f32; PER_LANE]; MOST_ROWS];
            for start in (0..self.columns).step_by(weights.len()) {
                let weights = &mut weights[..(self.columns - start).min(256)];
                self.packed.unpack(isa, (first + row) * self.columns + start, weights);
                for (sums, x) in sums.iter_mut().zip(x.chunks(self.columns)) {
                    let x = &x[start..start + weights.len()];
                    for (x, weights) in x.chunks(PER_LANE).zip(weights.chunks(PER_LANE)) {
                        for ((sum, x), weight) in sums.iter_mut().zip(x).zip(weights) {
                            *sum += x * weight;
                        }
                    }
                }
            }
            for (out, sums) in out.iter_mut().zip(&sums) {
                *out = sums.iter().sum();
            }
        }
    }

    /// Rows from `first` on, by the kernels. `out` is `[rows, batch]`.
    ///
    /// A segment of the activations stays in the first-level cache while all rows of the task go over it.
    fn rows_of_task(&self, isa: Isa, first: usize, x: &[f32], batch: usize, tile: usize, out: &mut [f32]) {
        let count = out.len() / batch;
        let step = lanes(isa) * PER_LANE;
        let padded = self.columns.next_multiple_of(step);
        let mut scales = [[0.0f32; SCALES]; ROWS];
        out.fill(0.0);
        for (m, x) in x.chunks(tile * padded).enumerate() {
            let width = tile.min(batch - m * tile);
            let segment = (CACHED / width).next_power_of_two().min(SEGMENT);
            for start in (0..self.columns).step_by(segment) {
                let len = segment.min(self.columns - start);
                let x = &x[start * width..(start + len.next_multiple_of(step)) * width];
                for row in (0..count).step_by(ROWS) {
                    // The last row of an odd number is worked on twice over; its second result is dropped.
                    let rows: [usize; ROWS] = std::array::from_fn(|r| first + (row + r).min(count - 1));
                    let [first, second] = &mut scales;
                    let pieces = [
                        self.piece(isa, rows[0] * self.columns + start, len, first),
                        self.piece(isa, rows[1] * self.columns + start, len, second),
                    ];
                    let mut sums = [[0.0f32; MOST_ROWS]; ROWS];
                    multiply(isa, self.packed.codebook().table(), &pieces, width, x, &mut sums);
                    for (r, sums) in sums.iter().enumerate().take(count - row) {
                        let out = &mut out[(row + r) * batch + m * tile..][..width];
                        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                    }
                }
            }
        }
    }

    /// A piece of a row, whose scales are decoded into `scales`, with zeros for the lanes beyond it.
    fn piece<'s>(&self, isa: Isa, start: usize, len: usize, scales: &'s mut [f32; SCALES]) -> Piece<'s>
    where
        'a: 's,
    {
        // Block sizes are powers of two; a division for each row would cost as much as its products.
        let shift = self.packed.block_size().trailing_zeros();
        let (first, last) = (start >> shift, (start + len - 1) >> shift);
        let (known, beyond) = scales.split_at_mut(last - first + 1);
        self.packed.scales().decode(isa, first, known);
        beyond[..MOST_LANES].fill(0.0);
        let bytes = &self.packed.bytes()[start / 2..(start + len) / 2];
        Piece { bytes, scales, shift, phase: start - (first << shift) }
    }
}

/// Lanes of a vector; 1 for the reference, which unpacks a piece at a time, with vectors if it can.
fn lanes(isa: Isa) -> usize {
    match isa.level() {
        Level::Scalar => 1,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => 1,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 8,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 16,
    }
}

/// Rows of activations that fit in registers beside the weights.
fn tile(isa: Isa) -> usize {
    match isa.level() {
        Level::Scalar => 1,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => 1,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 4,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 8,
    }
}

/// Adds `width` products for each of the rows to `sums`.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, reason = "the reference does not come here"))]
fn multiply(
    isa: Isa,
    table: &[f32; 16],
    rows: &[Piece<'_>; ROWS],
    width: usize,
    x: &[f32],
    sums: &mut [[f32; MOST_ROWS]; ROWS],
) {
    match isa.level() {
        // The reference does not come here.
        Level::Scalar => {}
        #[cfg(target_arch = "aarch64")]
        Level::Neon => {}
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => crate::simd::multiply_avx2(isa, table, rows, width, x, sums),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => crate::simd::multiply_avx512(isa, table, rows, width, x, sums),
    }
}

/// Lays activations out as `[tile][step][row of the tile][plane][lane]`, zeros behind the last column.
///
/// They begin where a cache line does, so that no vector crosses one. With one lane they are only widened to f32.
fn arrange<'a, T: Element>(
    x: &[T],
    batch: usize,
    columns: usize,
    lanes: usize,
    tile: usize,
    memory: &'a mut Vec<f32>,
) -> &'a [f32] {
    if lanes == 1 {
        memory.clear();
        memory.extend(x.iter().map(|value| value.to_f32()));
        return memory;
    }
    let step = lanes * PER_LANE;
    let padded = columns.next_multiple_of(step);
    memory.resize(batch * padded + CACHE_LINE / size_of::<f32>(), 0.0);
    let begin = memory.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE / size_of::<f32>());
    let out = &mut memory[begin..][..batch * padded];
    for (tile_index, out) in out.chunks_mut(tile * padded).enumerate() {
        let width = out.len() / padded;
        for (group, out) in out.chunks_mut(width * step).enumerate() {
            for (m, out) in out.chunks_mut(step).enumerate() {
                let row = &x[(tile_index * tile + m) * columns..][..columns];
                for (plane, out) in out.chunks_mut(lanes).enumerate() {
                    for (lane, out) in out.iter_mut().enumerate() {
                        let column = group * step + lane * PER_LANE + PLANE[plane];
                        *out = row.get(column).map_or(0.0, |value| value.to_f32());
                    }
                }
            }
        }
    }
    out
}
