//! The kernels' arithmetic, compiled for the host by the system's C++ compiler.
#![allow(unsafe_code, reason = "a library of C functions, loaded by tests")]

use std::{env, fs, process::Command, ptr, sync::OnceLock};

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

/// The compiled functions.
pub(crate) struct Host(Library);

/// Compiled once. There is no way round: a workspace that builds libtorch's shim has a C++ compiler.
pub(crate) fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in cuda::headers() {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let mut words = compiler.split_whitespace();
        let library = folder.path().join("arithmetic.so");
        let output = Command::new(words.next().unwrap())
            .args(words)
            .args(["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-I"])
            .arg(folder.path())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/arithmetic.cpp"))
            .arg("-o")
            .arg(&library)
            .output()
            .unwrap_or_else(|error| {
                panic!("`{compiler}` cannot be started: {error}; set CXX to a C++ compiler")
            });
        assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: our own code, without initializers. Once it is open, its file may go.
        Host(unsafe { Library::new(&library) }.unwrap())
    })
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
