//! `merge`: where it writes.

use crate::{documented::check, place::Place};

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
fn a_link_to_nowhere_is_refused_by_every_program_that_writes_a_folder() {
    for line in [
        "merge --model model --adapter adapter",
        "merge --model model --adapter adapter --force",
        "convert --model model --adapter adapter --to flat",
        "quantize --model model",
        "upcycle --model model --experts 2",
        "finetune --model model --data data.json",
        "finetune --model model --data data.json --force",
        "compare",
    ] {
        let line = format!("{line} --output out --device cpu");
        check("an output folder that is a link to nowhere", |place| place.link("out", "gone"), &line);
    }
}

#[test]
fn what_a_program_wrote_it_replaces_when_asked() {
    let place = Place::new();
    for line in [
        "merge --model model --adapter adapter",
        "convert --model model --adapter adapter --to flat",
        "quantize --model model",
        "upcycle --model model --experts 2",
    ] {
        let name = line.split(' ').next().expect("a name");
        for force in ["", "--force"] {
            place.succeed(&format!("{line} --output {name} --device cpu {force}"));
        }
    }
}

#[test]
fn a_link_to_a_folder_stays_and_the_folder_is_filled() {
    let place = Place::new();
    place.write("real/config.json", "{}");
    place.link("out", "real");
    place.succeed("merge --model model --adapter adapter --output out --force --device cpu");
    assert_eq!(std::fs::read_link(place.path("out")).expect("a link"), std::path::Path::new("real"));
    assert!(place.path("real/model.safetensors").is_file());
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
