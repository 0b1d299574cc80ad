//! `upcycle`: what a mixture is grown from.

use crate::documented::check;

#[test]
fn mixtures_that_cannot_be_grown_are_refused_as_documented() {
    check(
        "more experts for a token than there are",
        |_| {},
        "upcycle --model model --experts 2 --top-k 3 --output out --device cpu",
    );
    check("upcycling a mixture", |_| {}, "upcycle --model mixtral --experts 2 --output out --device cpu");
    check(
        "a mixture grown into a folder that holds the dense model",
        |_| {},
        "upcycle --model model --output . --force --device cpu",
    );
}
