//! The rules of `docs/nf4.md` by hand.

use ferrotune_nf4::{BlockSize, Codebook, Isa, Packed, Scales, packed_len};

use crate::{CODEBOOKS, code, quantized};

/// The worked example of `docs/nf4.md`.
#[test]
fn the_worked_example_has_the_bytes_of_the_specification() {
    // absmax 2; scaled 1, -0.5, 0, 0.25, -1: codes 15, 2, 7, 10, 0, and code 7 for the missing sixth.
    let weights = [2.0f32, -1.0, 0.0, 0.5, -2.0];
    for isa in Isa::available() {
        let (packed, absmax) = quantized(isa, Codebook::Nf4, BlockSize::default(), &weights);
        assert_eq!((packed.as_slice(), absmax.as_slice()), (&[0xf2, 0x7a, 0x07][..], &[2.0][..]), "{isa}");
        // FP4: 1 is 0b0011, -0.5 is 0b1101, 0 is 0b0000, 0.25 is 0b0111, -1 is 0b1011.
        let (packed, _) = quantized(isa, Codebook::Fp4, BlockSize::default(), &weights);
        assert_eq!(packed, [0x3d, 0x07, 0xb0], "{isa}");
    }
}

#[test]
fn a_tie_takes_the_lower_value() {
    for (codebook, size) in CODEBOOKS.into_iter().zip([BlockSize::default(); 2]) {
        let mut ascending = *codebook.table();
        ascending.sort_by(f32::total_cmp);
        for pair in ascending.windows(2).filter(|pair| pair[0] < pair[1]) {
            let mut weights = vec![1.0f32; 64];
            weights[7] = (pair[0] + pair[1]) / 2.0;
            weights[8] = weights[7].next_up();
            for isa in Isa::available() {
                let (packed, _) = quantized(isa, codebook, size, &weights);
                let value = |index| codebook.table()[usize::from(code(&packed, index))];
                assert_eq!((value(7), value(8)), (pair[0], pair[1]), "{codebook:?}, {isa}");
            }
        }
    }
}

#[test]
fn only_numbers_below_zero_have_the_sign_bit_of_fp4() {
    let mut weights = vec![1.0f32; 64];
    weights[..4].copy_from_slice(&[0.0, -0.0, f32::from_bits(1), -f32::from_bits(1)]);
    for isa in Isa::available() {
        let (packed, _) = quantized(isa, Codebook::Fp4, BlockSize::default(), &weights);
        assert_eq!(packed[..2], [0x00, 0x08], "{isa}");
    }
}

#[test]
fn all_zero_blocks_have_scale_zero_and_decode_to_zero() {
    for codebook in CODEBOOKS {
        for size in BlockSize::ALL {
            for len in [1, size.get() - 1, size.get(), 2 * size.get() + 3] {
                for isa in Isa::available() {
                    let (packed, absmax) = quantized(isa, codebook, size, &vec![0.0f32; len]);
                    assert!(absmax.iter().all(|scale| scale.to_bits() == 0));
                    let tensor = Packed::new(codebook, size, len, &packed, Scales::Plain(&absmax)).unwrap();
                    let mut out = vec![1.0f32; len];
                    tensor.dequantize(isa, &mut out).unwrap();
                    assert!(out.iter().all(|&weight| weight == 0.0), "{codebook:?} {size:?} {len} {isa}");
                }
            }
        }
    }
}

#[test]
fn an_empty_tensor_is_empty() {
    let (packed, absmax) = quantized::<f32>(Isa::best(), Codebook::Nf4, BlockSize::default(), &[]);
    let tensor =
        Packed::new(Codebook::Nf4, BlockSize::default(), 0, &packed, Scales::Plain(&absmax)).unwrap();
    assert!(tensor.is_empty());
    tensor.dequantize::<f32>(Isa::best(), &mut []).unwrap();
}

#[test]
fn indices_beyond_32_bits_reach_their_bytes() {
    // 2^32 + 4,099 weights; untouched pages of the zeroed buffer take no memory.
    let len = (1usize << 32) + 4099;
    let size = BlockSize::new(4096).unwrap();
    let mut bytes = vec![0; packed_len(len)];
    let mut absmax = vec![0.0; size.blocks(len)];
    let last = bytes.len() - 1;
    (bytes[last - 1], bytes[last]) = (0x7f, 0xf7);
    let blocks = absmax.len();
    (absmax[blocks - 2], absmax[blocks - 1]) = (3.0, 5.0);
    let tensor = Packed::new(Codebook::Nf4, size, len, &bytes, Scales::Plain(&absmax)).unwrap();
    let mut out = [0.0f32; 4];
    tensor.dequantize_range(Isa::best(), len - 4, &mut out).unwrap();
    // 4,099 = 4,096 + 3: the first of the four ends a block of scale 3, with code 0.
    assert_eq!(out, [-3.0, 0.0, 5.0, 5.0]);
}
