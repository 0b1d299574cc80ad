//! `quantize`: block sizes and what they divide.

use crate::documented::check;

#[test]
fn what_cannot_be_quantized_is_refused_as_documented() {
    check(
        "a block size that the format lacks",
        |_| {},
        "quantize --model model --block-size 48 --output out --device cpu",
    );
    check(
        "quantizing experts whose rows are no whole blocks",
        |_| {},
        "quantize --model mixtral --output out --device cpu",
    );
}
