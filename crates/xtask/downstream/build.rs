//! The README's linking recipe: cargo finds libtorch by itself for `run`, `test` and `bench`; a program that is started
//! without cargo needs a run path, which only its own package can give it.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    }
}
