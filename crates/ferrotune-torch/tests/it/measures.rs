//! Versions and memory figures say what is the case.

use ferrotune_torch::{Error, memory, version};
use tch::{Device, Kind, Tensor};

use crate::process::alone;

#[test]
fn the_loaded_libtorch_is_the_one_compiled_against() {
    assert_eq!(version::compiled(), version::EXPECTED);
    assert_eq!(version::runtime(), version::EXPECTED);
    assert_eq!(version::runtime().to_string(), "2.11.0");
    version::check().unwrap();
}

#[test]
fn the_peak_remembers_memory_that_was_freed() {
    alone("measures::the_peak_remembers_memory_that_was_freed", || {
        const BYTES: u64 = 128 << 20;
        let before = memory::host_resident_bytes().unwrap();
        let tensor = Tensor::ones([BYTES as i64], (Kind::Uint8, Device::Cpu));
        assert!(memory::host_resident_bytes().unwrap() > before + BYTES / 2);
        drop(tensor);
        let peak = memory::host_peak_bytes().unwrap();
        assert!(peak > before + BYTES / 2 && peak >= memory::host_resident_bytes().unwrap());
    });
}

#[test]
fn the_cpu_has_no_device_figures() {
    assert_eq!(memory::device(Device::Cpu).unwrap(), None);
    memory::reset_peak(Device::Cpu).unwrap();
    memory::synchronize(Device::Cpu).unwrap();
    assert!(matches!(memory::device(Device::Vulkan), Err(Error::UnsupportedDevice { .. })));
}

#[cfg(target_env = "gnu")]
#[test]
fn freed_blocks_go_back_to_the_system_at_once() {
    alone("measures::freed_blocks_go_back_to_the_system_at_once", || {
        const BYTES: i64 = 8 << 20;
        assert!(memory::return_freed_blocks());
        let ones = || Tensor::ones([BYTES], (Kind::Uint8, Device::Cpu));
        let tensors: Vec<Tensor> = (0..16).map(|_| ones()).collect();
        let full = memory::host_resident_bytes().unwrap();
        // The last one stays, so that nothing goes back because the heap's end is free.
        let last = tensors.into_iter().next_back().unwrap();
        let left = memory::host_resident_bytes().unwrap();
        assert!(
            left + 12 * BYTES as u64 <= full,
            "{full} bytes fell to {left} only, beside {:?}",
            last.size()
        );
    });
}
