//! What bad input gets.

use ferrotune_nf4::{
    BlockSize, Codebook, DYNAMIC_MAP, Error, Isa, MOST_ROWS, Packed, PackedMatrix, Scales, Scratch, Threads,
    check_nested_map, quantize, quantize_scales,
};
use half::bf16;

#[test]
fn other_block_sizes_are_refused() {
    for size in [0, 1, 16, 33, 48, 96, 8192, usize::MAX] {
        let error = BlockSize::new(size).unwrap_err();
        assert_eq!(error, Error::BlockSize { found: size });
        assert!(error.to_string().contains(&size.to_string()));
    }
}

#[test]
fn the_first_weight_that_is_not_finite_is_named() {
    let size = BlockSize::new(64).unwrap();
    for isa in Isa::available() {
        for len in [64, 65, 100_000, 131_072] {
            for index in [0, 31, 63, len / 2, len - 1] {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut weights = vec![0.5f32; len];
                    weights[index] = bad;
                    weights[len - 1] = f32::NAN;
                    let (mut packed, mut absmax) = (vec![0; len.div_ceil(2)], vec![0.0; size.blocks(len)]);
                    let error =
                        quantize(isa, Codebook::Nf4, size, &weights, &mut packed, &mut absmax).unwrap_err();
                    assert!(
                        matches!(error, Error::NotFinite { what: "weight", index: found, .. } if found == index),
                        "{isa}: {error}"
                    );
                    let weights: Vec<bf16> = weights.into_iter().map(bf16::from_f32).collect();
                    let error =
                        quantize(isa, Codebook::Fp4, size, &weights, &mut packed, &mut absmax).unwrap_err();
                    assert!(
                        matches!(error, Error::NotFinite { index: found, .. } if found == index),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn buffers_of_other_lengths_are_refused() {
    let size = BlockSize::default();
    let weights = [1.0f32; 129];
    for (bytes, blocks, what) in
        [(64, 3, "packed weights"), (66, 3, "packed weights"), (65, 2, "absmax"), (65, 4, "absmax")]
    {
        let (mut packed, mut absmax) = (vec![0; bytes], vec![0.0; blocks]);
        let error =
            quantize(Isa::best(), Codebook::Nf4, size, &weights, &mut packed, &mut absmax).unwrap_err();
        assert!(matches!(error, Error::Length { what: found, .. } if found == what), "{error}");
        let error = Packed::new(Codebook::Nf4, size, 129, &packed, Scales::Plain(&absmax)).unwrap_err();
        assert!(matches!(error, Error::Length { what: found, .. } if found == what), "{error}");
    }
    let nested = |codes: usize, absmax: usize| {
        let (codes, absmax) = (vec![0; codes], vec![0.0; absmax]);
        let scales = Scales::Nested { codes: &codes, absmax: &absmax, offset: 0.0 };
        Packed::new(Codebook::Nf4, size, 129, &[0; 65], scales).err()
    };
    assert_eq!(nested(3, 1), None);
    assert_eq!(nested(2, 1), Some(Error::Length { what: "nested codes", expected: 3, found: 2 }));
    assert_eq!(nested(3, 2), Some(Error::Length { what: "nested_absmax", expected: 1, found: 2 }));
}

#[test]
fn scales_that_are_not_finite_are_refused() {
    let size = BlockSize::default();
    for bad in [f32::NAN, f32::INFINITY] {
        let error = Packed::new(Codebook::Nf4, size, 128, &[0; 64], Scales::Plain(&[1.0, bad])).unwrap_err();
        assert!(matches!(error, Error::NotFinite { what: "absmax", index: 1, .. }), "{error}");
        let scales = Scales::Nested { codes: &[0, 0], absmax: &[bad], offset: 0.0 };
        let error = Packed::new(Codebook::Nf4, size, 128, &[0; 64], scales).unwrap_err();
        assert!(matches!(error, Error::NotFinite { what: "nested_absmax", index: 0, .. }), "{error}");
        let scales = Scales::Nested { codes: &[0, 0], absmax: &[0.0], offset: bad };
        let error = Packed::new(Codebook::Nf4, size, 128, &[0; 64], scales).unwrap_err();
        assert!(matches!(error, Error::NotFinite { what: "nested_offset", .. }), "{error}");
        let error = quantize_scales(Threads::RAYON, &[1.0, bad], &mut [0; 2], &mut [0.0]).unwrap_err();
        assert!(matches!(error, Error::NotFinite { what: "absmax", index: 1, .. }), "{error}");
    }
}

#[test]
fn scales_below_zero_are_refused_and_decoded_ones_may_be() {
    let (size, codes) = (BlockSize::default(), [0; 64]);
    // The first bad one is named, whatever is wrong with the others.
    for last in [1.0, f32::NAN] {
        let scales = Scales::Plain(&[1.0, -1e-3, last]);
        let error = Packed::new(Codebook::Nf4, size, 192, &[0; 96], scales).unwrap_err();
        assert_eq!(error, Error::NegativeScale { what: "absmax", index: 1, value: -1e-3 });
    }
    let scales = |absmax| Scales::Nested { codes: &[0, 0], absmax, offset: 0.5 };
    let error = Packed::new(Codebook::Nf4, size, 128, &codes, scales(&[-1.0])).unwrap_err();
    assert_eq!(error, Error::NegativeScale { what: "nested_absmax", index: 0, value: -1.0 });
    let below = Scales::Nested { codes: &[0, 0], absmax: &[1.0], offset: -50.0 };
    let error = Packed::new(Codebook::Nf4, size, 128, &codes, below).unwrap_err();
    assert_eq!(error, Error::NegativeScale { what: "nested_offset", index: 0, value: -50.0 });
    // 0.5 - 0.993 is what rounding leaves of a scale near 0.
    assert!(Packed::new(Codebook::Nf4, size, 128, &codes, scales(&[1.0])).is_ok());
    assert!(Packed::new(Codebook::Nf4, size, 128, &codes, Scales::Plain(&[-0.0, 0.0])).is_ok());
}

#[test]
fn maps_of_other_formats_are_refused() {
    let error = Codebook::Nf4.check_map(Codebook::Fp4.table()).unwrap_err();
    assert_eq!(error, Error::Map { what: "quant_map", index: 0, expected: -1.0, found: 0.0 });
    assert!(matches!(
        Codebook::Nf4.check_map(&[0.0; 15]).unwrap_err(),
        Error::Length { expected: 16, found: 15, .. }
    ));
    let mut map = DYNAMIC_MAP;
    map[200] = map[200].next_up().next_up();
    check_nested_map(&map).unwrap();
    map[200] = map[200].next_up();
    assert!(matches!(
        check_nested_map(&map).unwrap_err(),
        Error::Map { what: "nested_quant_map", index: 200, .. }
    ));
    map[200] = f32::NAN;
    assert!(check_nested_map(&map).is_err());
}

#[test]
fn ranges_shapes_and_batches_that_do_not_fit_are_refused() {
    let (bytes, absmax) = ([0x77; 64], [1.0; 2]);
    let packed =
        Packed::new(Codebook::Nf4, BlockSize::default(), 128, &bytes, Scales::Plain(&absmax)).unwrap();
    let mut out = [0.0f32; 2];
    assert_eq!(
        packed.dequantize_range(Isa::best(), 127, &mut out),
        Err(Error::Range { start: 127, end: 129, len: 128 })
    );
    assert!(packed.dequantize_range(Isa::best(), usize::MAX, &mut out).is_err());
    assert!(packed.dequantize(Isa::best(), &mut out).is_err());
    assert!(PackedMatrix::new(packed, 3, 40).is_err());
    assert!(PackedMatrix::new(packed, usize::MAX, 2).is_err());
    let matrix = PackedMatrix::new(packed, 2, 64).unwrap();
    let mut scratch = Scratch::default();
    for batch in [0, MOST_ROWS + 1] {
        let (x, mut y) = (vec![0.0f32; 64 * batch], vec![0.0f32; 2 * batch]);
        assert_eq!(
            matrix.product(Isa::best(), batch, &x, &mut y, &mut scratch),
            Err(Error::Batch { most: MOST_ROWS, found: batch })
        );
    }
    for (x, y) in [(63, 2), (64, 3)] {
        let (x, mut y) = (vec![0.0f32; x], vec![0.0f32; y]);
        assert!(matches!(
            matrix.product(Isa::best(), 1, &x, &mut y, &mut scratch),
            Err(Error::Length { .. })
        ));
    }
}
