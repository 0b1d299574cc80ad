//! `merge`: where it writes.

use crate::documented::check;

#[test]
fn output_folders_are_never_replaced_unasked() {
    check(
        "a merge into a folder that holds something",
        |place| place.write("out/notes.txt", "mine"),
        "merge --model model --adapter adapter --output out --device cpu",
    );
    check(
        "a merge into its own model",
        |_| {},
        "merge --model model --adapter adapter --output model --force --device cpu",
    );
    check(
        "a forced merge over a folder of something else",
        |place| place.write("photos/a.jpg", "x"),
        "merge --model model --adapter adapter --output photos --force --device cpu",
    );
    check(
        "a forced merge over a model with something else beside it",
        |place| {
            place.write("home/config.json", "{}");
            place.write("home/photos/a.jpg", "x");
        },
        "merge --model model --adapter adapter --output home --force --device cpu",
    );
    check(
        "a merge into a folder that holds its model",
        |_| {},
        "merge --model model --adapter adapter --output . --force --device cpu",
    );
    check(
        "a merge into a file",
        |_| {},
        "merge --model model --adapter adapter --output data.json --force --device cpu",
    );
}

#[test]
fn flags_without_effect_are_refused_as_documented() {
    check(
        "a block size for a merge onto the weights as they are",
        |_| {},
        "merge --model model --adapter adapter --block-size 32 --output out --device cpu",
    );
    check(
        "quantizing a base that is in 4 bits for a merge",
        |place| drop(place.succeed("quantize --model model --output four --device cpu")),
        "merge --model four --adapter adapter --quantized-base nf4 --output out --device cpu",
    );
}
