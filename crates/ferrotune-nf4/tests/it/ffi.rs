//! The kernels' arithmetic, and the kernels themselves, compiled for the host by the system's C++ compiler.
#![allow(unsafe_code, reason = "a library of C functions, loaded by tests")]

use std::{
    env, fs,
    path::Path,
    process::Command,
    ptr,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use ferrotune_nf4::{BlockSize, Codebook, Element, Scales, cuda, packed_len};
use half::{bf16, f16};
use libloading::{Library, Symbol};

/// Types that the kernels know, by the name in their entry points.
pub(crate) trait Kind: Element {
    const NAME: &'static str;
}
impl Kind for f32 {
    const NAME: &'static str = "f32";
}
impl Kind for f16 {
    const NAME: &'static str = "f16";
}
impl Kind for bf16 {
    const NAME: &'static str = "bf16";
}

type Quantize<T> = unsafe extern "C" fn(i32, usize, usize, *const T, *mut u8, *mut f32);
type Dequantize<T> = unsafe extern "C" fn(i32, usize, usize, *const u8, *const f32, *const u8, f32, *mut T);
type Product<T> = unsafe extern "C" fn(
    i32,
    usize,
    usize,
    usize,
    usize,
    *const u8,
    *const f32,
    *const u8,
    f32,
    *const T,
    *mut T,
);
type Convert<A, B> = unsafe extern "C" fn(usize, *const A, *mut B);
type Accumulate = unsafe extern "C" fn(*const f32, *const f32, f32, f32) -> f32;

/// The compiled functions of `arithmetic.cpp`.
pub(crate) struct Host(Library);

/// The arithmetic, compiled once.
pub(crate) fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host(compiled("arithmetic.cpp")))
}

/// A program of `tests/host` as a library. There is no way round a C++ compiler: libtorch's shim needs one too.
fn compiled(program: &str) -> Library {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in cuda::headers() {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut words = compiler.split_whitespace();
    let library = folder.path().join("library.so");
    let output = Command::new(words.next().unwrap())
        .args(words)
        // The kernels read bytes of one type as another, between barriers.
        .args(["-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC", "-I"])
        .arg(folder.path())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host").join(program))
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap_or_else(|error| panic!("`{compiler}` cannot be started: {error}; set CXX to a C++ compiler"));
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: our own code; its initializers set up the standard library. Once it is open, its file may go.
    unsafe { Library::new(&library) }.unwrap()
}

fn index(codebook: Codebook) -> i32 {
    match codebook {
        Codebook::Nf4 => 0,
        Codebook::Fp4 => 1,
    }
}

fn parts(scales: Scales<'_>) -> (*const f32, *const u8, f32) {
    match scales {
        Scales::Plain(absmax) => (absmax.as_ptr(), ptr::null(), 0.0),
        Scales::Nested { codes, absmax, offset } => (absmax.as_ptr(), codes.as_ptr(), offset),
    }
}

impl Host {
    /// A function of `arithmetic.cpp`; `F` must be its type.
    fn get<F>(&self, name: &str) -> Symbol<'_, F> {
        // SAFETY: the callers below name the types that arithmetic.cpp declares.
        unsafe { self.0.get(name.as_bytes()) }.unwrap()
    }

    pub(crate) fn quantize<T: Kind>(
        &self,
        codebook: Codebook,
        size: BlockSize,
        weights: &[T],
    ) -> (Vec<u8>, Vec<f32>) {
        let (mut packed, mut absmax) =
            (vec![0xaa; packed_len(weights.len())], vec![-1.0; size.blocks(weights.len())]);
        let quantize = self.get::<Quantize<T>>(&format!("quantize_{}", T::NAME));
        let (from, to) = (weights.as_ptr(), packed.as_mut_ptr());
        // SAFETY: buffers as long as the function takes them to be.
        unsafe { quantize(index(codebook), size.get(), weights.len(), from, to, absmax.as_mut_ptr()) };
        (packed, absmax)
    }

    pub(crate) fn dequantize<T: Kind>(
        &self,
        codebook: Codebook,
        size: BlockSize,
        len: usize,
        packed: &[u8],
        scales: Scales<'_>,
    ) -> Vec<T> {
        assert_eq!(packed.len(), packed_len(len));
        let mut out = vec![T::default(); len];
        let (absmax, codes, offset) = parts(scales);
        let dequantize = self.get::<Dequantize<T>>(&format!("dequantize_{}", T::NAME));
        let (from, to) = (packed.as_ptr(), out.as_mut_ptr());
        // SAFETY: buffers as long as the function takes them to be; the scales were checked by their maker.
        unsafe { dequantize(index(codebook), size.get(), len, from, absmax, codes, offset, to) };
        out
    }

    #[expect(clippy::too_many_arguments, reason = "a kernel's parameters")]
    pub(crate) fn product<T: Kind>(
        &self,
        codebook: Codebook,
        size: BlockSize,
        rows: usize,
        columns: usize,
        packed: &[u8],
        scales: Scales<'_>,
        x: &[T],
    ) -> Vec<T> {
        assert_eq!(packed.len(), rows * columns / 2);
        let batch = x.len() / columns;
        let mut y = vec![T::default(); batch * rows];
        let (absmax, codes, offset) = parts(scales);
        let product = self.get::<Product<T>>(&format!("product_{}", T::NAME));
        let (book, block, from, out) = (index(codebook), size.get(), packed.as_ptr(), y.as_mut_ptr());
        // SAFETY: buffers as long as the function takes them to be; the scales were checked by their maker.
        unsafe { product(book, block, rows, columns, batch, from, absmax, codes, offset, x.as_ptr(), out) };
        y
    }

    pub(crate) fn narrow<T: Kind>(&self, from: &[f32]) -> Vec<T> {
        let mut to = vec![T::default(); from.len()];
        let narrow = self.get::<Convert<f32, T>>(&format!("narrow_{}", T::NAME));
        // SAFETY: both buffers have this length.
        unsafe { narrow(from.len(), from.as_ptr(), to.as_mut_ptr()) };
        to
    }

    pub(crate) fn widen<T: Kind>(&self, from: &[T]) -> Vec<f32> {
        let mut to = vec![0.0; from.len()];
        let widen = self.get::<Convert<T, f32>>(&format!("widen_{}", T::NAME));
        // SAFETY: both buffers have this length.
        unsafe { widen(from.len(), from.as_ptr(), to.as_mut_ptr()) };
        to
    }

    pub(crate) fn accumulate(&self, values: &[f32; 8], x: &[f32; 8], scale: f32, sum: f32) -> f32 {
        let accumulate = self.get::<Accumulate>("accumulate_eight");
        // SAFETY: eight numbers each.
        unsafe { accumulate(values.as_ptr(), x.as_ptr(), scale, sum) }
    }
}

type EmulateQuantize<T> = unsafe extern "C" fn(u32, i32, i32, usize, *const T, *mut u8, *mut f32, *mut u64);
type EmulateDequantize<T> =
    unsafe extern "C" fn(u32, i32, usize, usize, usize, usize, *const u8, *const f32, *const u8, f32, *mut T);
type EmulateExperts<T> =
    unsafe extern "C" fn(u32, i32, usize, usize, u32, *const i32, usize, *const u8, *const f32, *mut T);
type EmulateProduct<T> = unsafe extern "C" fn(
    u32,
    u32,
    u32,
    i32,
    usize,
    usize,
    usize,
    usize,
    *const u8,
    *const f32,
    *const u8,
    f32,
    *const T,
    *mut T,
);

/// The kernels of `emulation.cpp`, one at a time: they have the shared memory of one thread block.
pub(crate) struct Emulation(Library);

/// The kernels, compiled once.
pub(crate) fn emulation() -> MutexGuard<'static, Emulation> {
    static EMULATION: OnceLock<Mutex<Emulation>> = OnceLock::new();
    let emulation = EMULATION.get_or_init(|| Emulation(compiled("emulation.cpp")).into());
    emulation.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A packed tensor on the host, as kernels are given it.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) codebook: Codebook,
    pub(crate) size: BlockSize,
    pub(crate) len: usize,
    pub(crate) packed: &'a [u8],
    pub(crate) scales: Scales<'a>,
}

impl Emulation {
    fn get<F>(&self, family: &str, name: &str) -> Symbol<'_, F> {
        // SAFETY: the callers below name the types that emulation.cpp declares.
        unsafe { self.0.get(format!("emulate_{family}_{name}").as_bytes()) }.unwrap()
    }

    /// Codes, scales, and what the index of the first bad weight became.
    pub(crate) fn quantize<T: Kind>(
        &self,
        grid: u32,
        codebook: Codebook,
        size: BlockSize,
        weights: &[T],
    ) -> (Vec<u8>, Vec<f32>, u64) {
        let mut packed = vec![0xaa; packed_len(weights.len())];
        let mut absmax = vec![-1.0; size.blocks(weights.len())];
        let mut bad = u64::MAX;
        let quantize = self.get::<EmulateQuantize<T>>("quantize", T::NAME);
        let log2 = size.get().trailing_zeros() as i32;
        let (from, to, scales) = (weights.as_ptr(), packed.as_mut_ptr(), absmax.as_mut_ptr());
        // SAFETY: buffers as long as the function takes them to be.
        unsafe { quantize(grid, index(codebook), log2, weights.len(), from, to, scales, &mut bad) };
        (packed, absmax, bad)
    }

    pub(crate) fn dequantize<T: Kind>(
        &self,
        grid: u32,
        stored: Stored<'_>,
        first: usize,
        count: usize,
    ) -> Vec<T> {
        assert!(first + count <= stored.len && stored.packed.len() == packed_len(stored.len));
        let mut out = vec![T::default(); count];
        let (absmax, codes, offset) = parts(stored.scales);
        let dequantize = self.get::<EmulateDequantize<T>>("dequantize", T::NAME);
        let (book, block, from) = (index(stored.codebook), stored.size.get(), stored.packed.as_ptr());
        let to = out.as_mut_ptr();
        // SAFETY: buffers as long as the function takes them to be; the scales were checked by their maker.
        unsafe { dequantize(grid, book, block, stored.len, first, count, from, absmax, codes, offset, to) };
        out
    }

    /// `ends.len() * parts` matrices of `count` weights under plain scales, into what stands in `out`.
    #[expect(clippy::too_many_arguments, reason = "a kernel's parameters")]
    pub(crate) fn dequantize_experts<T: Kind>(
        &self,
        grid: u32,
        codebook: Codebook,
        size: BlockSize,
        parts: usize,
        ends: &[i32],
        packed: &[u8],
        absmax: &[f32],
        out: &mut [T],
    ) {
        let matrices = ends.len() * parts;
        let count = out.len() / matrices;
        assert!(packed.len() == out.len() / 2 && absmax.len() == matrices * size.blocks(count));
        let dequantize = self.get::<EmulateExperts<T>>("dequantize_experts", T::NAME);
        let (from, scales, to) = (packed.as_ptr(), absmax.as_ptr(), out.as_mut_ptr());
        let (book, block, each) = (index(codebook), size.get(), parts as u32);
        // SAFETY: buffers as long as the function takes them to be.
        unsafe { dequantize(grid, book, block, matrices, each, ends.as_ptr(), count, from, scales, to) };
    }

    /// The product by the kernel that takes `tile` rows of `x` to a block and `words` words of codes to a lane.
    pub(crate) fn product<T: Kind>(
        &self,
        [grid, tile, words]: [u32; 3],
        stored: Stored<'_>,
        columns: usize,
        x: &[T],
    ) -> Vec<T> {
        let (rows, batch) = (stored.len / columns, x.len() / columns);
        let mut y = vec![T::default(); batch * rows];
        let (absmax, codes, offset) = parts(stored.scales);
        let product = self.get::<EmulateProduct<T>>("product", T::NAME);
        let (book, block, from) = (index(stored.codebook), stored.size.get(), stored.packed.as_ptr());
        let (x, out) = (x.as_ptr(), y.as_mut_ptr());
        // SAFETY: buffers as long as the function takes them to be; the scales were checked by their maker.
        unsafe {
            product(
                grid, tile, words, book, block, rows, columns, batch, from, absmax, codes, offset, x, out,
            );
        }
        y
    }
}
