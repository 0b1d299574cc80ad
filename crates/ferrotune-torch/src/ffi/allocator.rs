/// Sets from which size on the C library takes a block from the system directly and gives it back when it is freed.
///
/// Returns whether the C library has such a setting and took it.
#[cfg(target_env = "gnu")]
pub(crate) fn set_mapped_block_bytes(bytes: i32) -> bool {
    /// `M_MMAP_THRESHOLD` of glibc's `malloc.h`.
    const MAPPED_BLOCK_PARAMETER: std::ffi::c_int = -3;

    unsafe extern "C" {
        fn mallopt(parameter: std::ffi::c_int, value: std::ffi::c_int) -> std::ffi::c_int;
    }

    // SAFETY: `mallopt` takes two numbers, keeps no pointer, and locks the allocator itself (glibc's manual calls it safe
    // for threads but for a race at start-up between two callers, which both set the same value here).
    unsafe { mallopt(MAPPED_BLOCK_PARAMETER, bytes) == 1 }
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn set_mapped_block_bytes(_bytes: i32) -> bool {
    false
}
