//! What a project that adds `ferrotune` to its manifest does first: a tensor operation, through the facade alone.

use ferrotune::tch::{Device, Kind, Tensor};
use ferrotune::torch::version;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    version::check()?;
    let row = Tensor::arange(4, (Kind::Float, Device::Cpu)).reshape([1, 4]);
    let product = row.matmul(&row.tr()).double_value(&[0, 0]);
    assert_eq!(product, 14.0, "0 + 1 + 4 + 9");
    println!("libtorch {}: {product}", version::runtime());
    Ok(())
}
