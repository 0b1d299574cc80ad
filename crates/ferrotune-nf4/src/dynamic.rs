//! The second level: scales in eight bits, blocks of 256, the signed dynamic map.

use crate::{
    Error, Threads,
    codebook::check_map,
    error::{expect_finite, expect_len},
    scalar::reciprocal,
};

/// How many scales share a second-level scale.
pub const NESTED_BLOCK_SIZE: usize = 256;

/// Numbers to a task: whole blocks, enough to hide what scheduling costs.
const TASK: usize = 16 * NESTED_BLOCK_SIZE;

const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// Entry `index` of `items + 1` evenly spaced numbers from 0.1 to 1, counted from the nearer end as PyTorch does.
///
/// PyTorch fuses the multiplication and the addition wherever the processor can. In f64 both are exact here, so that the
/// rounding to f32 is the only one.
const fn spaced(index: usize, items: usize) -> f32 {
    let (start, step) = (0.1f32 as f64, ((1.0 - 0.1f32) / items as f32) as f64);
    if index < items.div_ceil(2) {
        (start + step * index as f64) as f32
    } else {
        (1.0 - step * (items - index) as f64) as f32
    }
}

const fn dynamic_map() -> [f32; 256] {
    let mut map = [0.0; 256];
    // Magnitudes ascend with decade and midpoint, so they are laid out from the middle: 127 is zero, 255 is one.
    let mut place = 1;
    let mut decade = 0;
    while decade < 7 {
        let items = 1 << decade;
        let mut item = 0;
        while item < items {
            let middle = (spaced(item, items) + spaced(item + 1, items)) / 2.0;
            map[127 + place] = DECADES[decade] * middle;
            map[127 - place] = -map[127 + place];
            place += 1;
            item += 1;
        }
        decade += 1;
    }
    map[255] = 1.0;
    map
}

const fn midpoints() -> [f32; 255] {
    let mut bounds = [0.0; 255];
    let mut code = 0;
    while code < 255 {
        bounds[code] = (DYNAMIC_MAP[code] + DYNAMIC_MAP[code + 1]) / 2.0;
        code += 1;
    }
    bounds
}

/// The 256 numbers of the signed dynamic map, ascending: 0 at 127, 1 at 255, and no -1.
///
/// Source: arXiv:1511.04561; `create_dynamic_map` in bitsandbytes, as processors with fused multiply-add compute it.
pub static DYNAMIC_MAP: [f32; 256] = dynamic_map();

static BOUNDS: [f32; 255] = midpoints();

/// How far an entry of a file's map may be off, in units of the last place.
///
/// bitsandbytes computes the map anew on each machine, and processors without fused multiply-add get up to 2.
const LAST_PLACES: u32 = 2;

/// Checks that a checkpoint's `nested_quant_map` is [`DYNAMIC_MAP`] up to two units in the last place.
///
/// # Errors
///
/// [`Error::Length`] and [`Error::Map`], which names the first entry that differs by more.
pub fn check_nested_map(map: &[f32]) -> Result<(), Error> {
    // Neighbouring floats of a sign have neighbouring bits.
    check_map("nested_quant_map", &DYNAMIC_MAP, map, |ours, found| {
        ours == found || (ours * found > 0.0 && ours.to_bits().abs_diff(found.to_bits()) <= LAST_PLACES)
    })
}

/// The code of a scaled number: as many bounds as it strictly exceeds, so that a tie takes the lower code.
fn code(scaled: f32) -> u8 {
    // A binary search without branches over 255 = 2^8 - 1 bounds.
    let mut rank = 0;
    for step in [128, 64, 32, 16, 8, 4, 2, 1] {
        rank += if scaled > BOUNDS[rank + step - 1] { step } else { 0 };
    }
    rank as u8
}

/// Quantizes numbers to eight bits in blocks of [`NESTED_BLOCK_SIZE`] with [`DYNAMIC_MAP`].
///
/// `offset` is subtracted first, in f32. `codes` has as many entries as `values`, `absmax` one for each block.
///
/// # Errors
///
/// [`Error::Length`] for buffers of other lengths, [`Error::NotFinite`] for a difference that is not finite.
pub fn quantize_dynamic(
    threads: Threads,
    values: &[f32],
    offset: f32,
    codes: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), Error> {
    expect_len("nested codes", codes.len(), values.len())?;
    expect_len("nested_absmax", absmax.len(), values.len().div_ceil(NESTED_BLOCK_SIZE))?;
    expect_finite("absmax", values)?;
    expect_finite("nested_offset", &[offset])?;
    let tasks =
        values.chunks(TASK).zip(codes.chunks_mut(TASK)).zip(absmax.chunks_mut(TASK / NESTED_BLOCK_SIZE));
    threads.for_each(tasks, |((values, codes), absmax)| {
        let blocks = values.chunks(NESTED_BLOCK_SIZE).zip(codes.chunks_mut(NESTED_BLOCK_SIZE)).zip(absmax);
        for ((values, codes), absmax) in blocks {
            *absmax = values.iter().fold(0.0, |most: f32, value| most.max((value - offset).abs()));
            let factor = reciprocal(*absmax);
            for (to, value) in codes.iter_mut().zip(values) {
                *to = code((value - offset) * factor);
            }
        }
    });
    expect_finite("nested_absmax", absmax)
}

/// The mean, correctly rounded but for the last bit of an f64 sum, and the same on every machine.
///
/// The sum runs in eight lanes because the order is part of the result.
pub(crate) fn mean(values: &[f32]) -> f32 {
    let mut lanes = [0.0f64; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value);
        }
    }
    let rest: f64 = rest.iter().map(|&value| f64::from(value)).sum();
    let sum = lanes.iter().sum::<f64>() + rest;
    if values.is_empty() { 0.0 } else { (sum / values.len() as f64) as f32 }
}
