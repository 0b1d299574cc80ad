//! How large each kernel's launch is. Plain arithmetic, so that tests run the kernels on the host with these very grids.

use crate::{BlockSize, Error};

/// Threads to a block, as in `device.cuh`.
pub const THREADS: u32 = WARPS as u32 * LANES as u32;

const WARPS: usize = 8;
const LANES: usize = 32;

/// Weights to a lane, whose codes are 16 bytes.
pub(super) const CHUNK: usize = 32;

/// Rows of W to a warp of the product.
const ROWS: usize = 4;

/// Weights that a range must begin at a multiple of, and rows be multiples of: 16 bytes of 16-bit numbers.
pub(super) const STEP: usize = 8;

/// Rows of `x` to a thread block of the product, with 16 bytes of codes to a lane; and with four.
pub(super) const TILES: [u32; 4] = [1, 2, 4, 8];
pub(super) const NARROW_TILES: [u32; 2] = [1, 8];

/// Most blocks of a grid along its first axis, and along its second.
const MOST_BLOCKS: usize = i32::MAX as usize;
const MOST_ROWS_OF_BLOCKS: usize = u16::MAX as usize;

/// Blocks of threads along both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Along the first.
    pub x: u32,
    /// Along the second.
    pub y: u32,
}

impl Grid {
    fn new(units: usize, per_block: usize, rows: usize) -> Result<Self, Error> {
        let within = |what, found: usize, most| match u32::try_from(found) {
            Ok(narrow) if found <= most => Ok(narrow),
            _ => Err(Error::TooLarge { what, found, most }),
        };
        let x = within("thread blocks", units.div_ceil(per_block), MOST_BLOCKS)?;
        Ok(Self { x, y: within("rows of thread blocks", rows, MOST_ROWS_OF_BLOCKS)? })
    }
}

/// For `quantize_*`: a warp takes 1,024 weights, or a block that is longer.
///
/// # Errors
///
/// [`Error::TooLarge`].
pub fn quantize(block_size: BlockSize, len: usize) -> Result<Grid, Error> {
    Grid::new(len, WARPS * block_size.get().max(LANES * CHUNK), 1)
}

/// For `dequantize_*`: the first warp's 1,024 weights begin up to 24 before the range.
///
/// # Errors
///
/// [`Error::NotAMultiple`] if `first` is no multiple of 8, [`Error::TooLarge`].
pub fn dequantize(first: usize, count: usize) -> Result<Grid, Error> {
    expect_multiple("first weight", first, STEP)?;
    Grid::new(first % CHUNK + count, WARPS * LANES * CHUNK, 1)
}

/// For `dequantize_experts_*`: a row of blocks to each matrix, as long as the longest needs.
///
/// # Errors
///
/// [`Error::TooLarge`].
pub fn dequantize_experts(longest: usize, matrices: usize) -> Result<Grid, Error> {
    Grid::new(longest, WARPS * LANES * CHUNK, matrices)
}

/// Which of the kernels `product_*` takes a product, by the two numbers in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of `x` to a thread block.
    pub tile: u32,
    /// Words of codes to a lane: 4, or 1 where a row is no multiple of 32 weights.
    pub words: u32,
    /// The launch.
    pub grid: Grid,
}

/// For `product_*`: 4 rows of W to a warp, and a row of blocks for each tile of `batch`, which is at least 1.
///
/// # Errors
///
/// [`Error::NotAMultiple`] if `columns` is no multiple of 8, [`Error::TooLarge`].
pub fn product(rows: usize, columns: usize, batch: usize) -> Result<Product, Error> {
    expect_multiple("columns", columns, STEP)?;
    let (words, tiles) = if columns.is_multiple_of(CHUNK) { (4, &TILES[..]) } else { (1, &NARROW_TILES[..]) };
    let largest = TILES[TILES.len() - 1];
    let tile = tiles.iter().copied().find(|&tile| tile as usize >= batch).unwrap_or(largest);
    let grid = Grid::new(rows, WARPS * ROWS, batch.div_ceil(tile as usize))?;
    Ok(Product { tile, words, grid })
}

pub(super) fn expect_multiple(what: &'static str, found: usize, multiple: usize) -> Result<(), Error> {
    if found.is_multiple_of(multiple) { Ok(()) } else { Err(Error::NotAMultiple { what, found, multiple }) }
}
