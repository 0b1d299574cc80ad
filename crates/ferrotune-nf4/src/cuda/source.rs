//! The embedded sources, and the header of tables that is written from this crate's own.

use std::fmt::Write as _;

use crate::{Codebook, DYNAMIC_MAP, codebook::Bounds};

/// What is compiled: one module with every kernel.
pub(super) const ROOT: &str =
    "#include \"quantize.cu\"\n#include \"dequantize.cu\"\n#include \"product.cu\"\n";

/// The kernels by name. A product's name ends in the rows of `x` that a thread block takes and in the words of codes that
/// a lane reads at a time.
pub const ENTRIES: [&str; 27] = [
    "quantize_f32",
    "quantize_f16",
    "quantize_bf16",
    "dequantize_f32",
    "dequantize_f16",
    "dequantize_bf16",
    "dequantize_experts_f32",
    "dequantize_experts_f16",
    "dequantize_experts_bf16",
    "product_f32_1_4",
    "product_f32_2_4",
    "product_f32_4_4",
    "product_f32_8_4",
    "product_f32_1_1",
    "product_f32_8_1",
    "product_f16_1_4",
    "product_f16_2_4",
    "product_f16_4_4",
    "product_f16_8_4",
    "product_f16_1_1",
    "product_f16_8_1",
    "product_bf16_1_4",
    "product_bf16_2_4",
    "product_bf16_4_4",
    "product_bf16_8_4",
    "product_bf16_1_1",
    "product_bf16_8_1",
];

/// Every file that the kernels include, by name.
///
/// `nf4.cuh` and `tables.cuh` also compile as C++17 for the host.
#[must_use]
pub fn headers() -> [(&'static str, String); 6] {
    [
        ("tables.cuh", tables()),
        ("nf4.cuh", include_str!("nf4.cuh").to_owned()),
        ("device.cuh", include_str!("device.cuh").to_owned()),
        ("quantize.cu", include_str!("quantize.cu").to_owned()),
        ("dequantize.cu", include_str!("dequantize.cu").to_owned()),
        ("product.cu", include_str!("product.cu").to_owned()),
    ]
}

/// The tables as bits, so that no decimal is read twice; NF4 first, then FP4.
fn tables() -> String {
    let mut text = String::from(
        "#pragma once\n#ifdef __CUDACC__\n#define NF4_TABLE static __device__ const\n#else\n#define NF4_TABLE static const\n#endif\n",
    );
    let books = [Codebook::Nf4, Codebook::Fp4];
    let bits = |values: &[f32]| {
        values.iter().map(|value| format!("{:#010x}u", value.to_bits())).collect::<Vec<_>>().join(", ")
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "NF4_TABLE unsigned int VALUES[2][16] = {{{{{}}}, {{{}}}}};",
        bits(books[0].table()),
        bits(books[1].table())
    );
    let _ = writeln!(
        text,
        "NF4_TABLE unsigned int BOUNDS[2][15] = {{{{{}}}, {{{}}}}};",
        bits(&books[0].bounds().bounds),
        bits(&books[1].bounds().bounds)
    );
    let _ = writeln!(
        text,
        "NF4_TABLE unsigned long long RANKS[2] = {{{:#018x}ull, {:#018x}ull}};",
        codes_of_ranks(books[0].bounds()),
        codes_of_ranks(books[1].bounds())
    );
    let _ = writeln!(text, "NF4_TABLE unsigned int DYNAMIC_MAP[256] = {{{}}};", bits(&DYNAMIC_MAP));
    text
}

/// The code of each rank, four bits to a rank, rank 0 lowest.
fn codes_of_ranks(bounds: &Bounds) -> u64 {
    bounds.codes.iter().rev().fold(0, |word, &code| word << 4 | u64::from(code))
}
