//! The kernels of a device, and how large a launch is.

use std::{ffi::c_void, path::PathBuf, ptr};

use super::driver::{Context, Function, Module};
use crate::{
    BlockSize, Codebook, Error, MOST_ROWS,
    cuda::{
        Cache, Nvrtc,
        launch::{self, NARROW_TILES, TILES, expect_multiple},
    },
};

/// Bytes that buffers begin at a multiple of: what allocators of device memory give, and views may lose.
const ALIGNMENT: u64 = 16;

/// A stream by its driver's handle (`CUstream`); zero is the default stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream(pub u64);

/// The type of weights and activations in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementKind {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl ElementKind {
    const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// A packed tensor in device memory, by addresses.
#[derive(Clone, Copy, Debug)]
pub struct DevicePacked {
    /// Which numbers the codes stand for.
    pub codebook: Codebook,
    /// Weights to a scale.
    pub block_size: BlockSize,
    /// Weights.
    pub len: usize,
    /// [`packed_len`](crate::packed_len) bytes of codes, at a multiple of 16.
    pub codes: u64,
    /// The scales.
    pub scales: DeviceScales,
}

/// The scales of a packed tensor in device memory, as [`Scales`](crate::Scales) on the host.
#[derive(Clone, Copy, Debug)]
pub enum DeviceScales {
    /// One f32 for each block.
    Plain {
        /// Where they are.
        absmax: u64,
    },
    /// Double quantization.
    Nested {
        /// One byte for each block.
        codes: u64,
        /// One f32 for each 256 blocks.
        absmax: u64,
        /// What is added to every scale.
        offset: f32,
    },
}

/// `Scales` of `device.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelScales {
    absmax: u64,
    codes: u64,
    offset: f32,
    log2_block: i32,
}

impl DevicePacked {
    fn scales(&self) -> KernelScales {
        let log2_block = log2(self.block_size);
        match self.scales {
            DeviceScales::Plain { absmax } => KernelScales { absmax, codes: 0, offset: 0.0, log2_block },
            DeviceScales::Nested { codes, absmax, offset } => {
                KernelScales { absmax, codes, offset, log2_block }
            }
        }
    }
}

/// One matrix of an expert, as [`Kernels::dequantize_experts`] reads it from device memory.
#[derive(Clone, Copy, Debug)]
pub struct ExpertMatrix {
    /// The matrix. Its codes begin at a multiple of 16 bytes.
    pub packed: DevicePacked,
    /// Where it goes, in weights from the beginning of the output: a multiple of 8.
    pub place: usize,
}

impl ExpertMatrix {
    /// Bytes of one.
    pub const SIZE: usize = 48;

    /// `ExpertMatrix` of `dequantize.cu`.
    ///
    /// # Errors
    ///
    /// [`Error::Misaligned`], [`Error::NotAMultiple`].
    pub fn bytes(&self) -> Result<[u8; Self::SIZE], Error> {
        expect_aligned("packed weights", self.packed.codes)?;
        expect_multiple("place of an expert's matrix", self.place, 8)?;
        let scales = self.packed.scales();
        // Offset and block size share eight bytes.
        let small = u64::from(scales.offset.to_bits()) | u64::from(scales.log2_block.unsigned_abs()) << 32;
        let fields = [
            self.packed.codes,
            scales.absmax,
            scales.codes,
            small,
            self.packed.len as u64,
            self.place as u64,
        ];
        let mut bytes = [0; Self::SIZE];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        Ok(bytes)
    }
}

fn log2(block_size: BlockSize) -> i32 {
    block_size.get().trailing_zeros() as i32
}

fn index(codebook: Codebook) -> i32 {
    match codebook {
        Codebook::Nf4 => 0,
        Codebook::Fp4 => 1,
    }
}

/// A pointer to a kernel's argument; the driver only reads through it.
fn argument<T>(value: &T) -> *mut c_void {
    ptr::from_ref(value).cast_mut().cast()
}

fn expect_aligned(what: &'static str, address: u64) -> Result<(), Error> {
    if address.is_multiple_of(ALIGNMENT) {
        Ok(())
    } else {
        Err(Error::Misaligned { what, address, multiple: ALIGNMENT })
    }
}

/// The kernels of one type of number.
#[derive(Debug)]
struct OfKind {
    quantize: Function,
    dequantize: Function,
    dequantize_experts: Function,
    product: [Function; TILES.len()],
    narrow_product: [Function; NARROW_TILES.len()],
}

impl OfKind {
    fn of(module: &Module, kind: ElementKind) -> Result<Self, Error> {
        let name = kind.name();
        let function = |family: &str| module.function(&format!("{family}_{name}"));
        let product = |tile: u32, words: u32| module.function(&format!("product_{name}_{tile}_{words}"));
        Ok(Self {
            quantize: function("quantize")?,
            dequantize: function("dequantize")?,
            dequantize_experts: function("dequantize_experts")?,
            product: [product(1, 4)?, product(2, 4)?, product(4, 4)?, product(8, 4)?],
            narrow_product: [product(1, 1)?, product(8, 1)?],
        })
    }

    /// A product's kernel by the two numbers in its name.
    fn product(&self, tile: u32, words: u32) -> Result<Function, Error> {
        let (tiles, functions) = if words == 1 {
            (&NARROW_TILES[..], &self.narrow_product[..])
        } else {
            (&TILES[..], &self.product[..])
        };
        let place = tiles.iter().position(|&known| known == tile);
        let missing =
            || Error::Driver { call: "cuLaunchKernel", code: format!("no product kernel {tile}_{words}") };
        place.map(|place| functions[place]).ok_or_else(missing)
    }
}

/// Every kernel, loaded into a device's primary context. Any thread may use them.
///
/// Launches return at once; what they read and write must stay until the stream has passed them. Buffers start at multiples of
/// 16 bytes.
#[derive(Debug)]
pub struct Kernels {
    of_kind: [OfKind; 3],
    module: Module,
}

impl Kernels {
    /// Compiles the kernels for the device with this ordinal, or takes them from the cache, and loads them.
    ///
    /// `folders` is where NVRTC may be besides the loader's path: see [`Nvrtc::find`].
    ///
    /// # Errors
    ///
    /// [`Error::CudaUnavailable`] without driver or device, [`Error::NvrtcUnavailable`] without compiler,
    /// [`Error::DeviceTooOld`] below compute capability 8.0: fall back to other means. [`Error::KernelCompilation`],
    /// [`Error::Nvrtc`] and [`Error::Driver`]: something is broken.
    pub fn for_device(ordinal: usize, folders: &[PathBuf], cache: &Cache) -> Result<Self, Error> {
        let context = Context::retain(ordinal)?;
        let nvrtc = Nvrtc::find(folders)?;
        let target = nvrtc.target(context.capability()?)?;
        let module = Module::load(context, &nvrtc.compile_cached(target, cache)?)?;
        let [f32, f16, bf16] = ElementKind::ALL.map(|kind| OfKind::of(&module, kind));
        Ok(Self { of_kind: [f32?, f16?, bf16?], module })
    }

    fn of(&self, kind: ElementKind) -> &OfKind {
        match kind {
            ElementKind::F32 => &self.of_kind[0],
            ElementKind::F16 => &self.of_kind[1],
            ElementKind::Bf16 => &self.of_kind[2],
        }
    }

    /// Quantizes `len` weights into codes and scales, as [`quantize`](crate::quantize) does.
    ///
    /// `first_bad` is an unsigned 64-bit number that becomes the index of the first weight that is not finite, if that is below
    /// what it holds; the caller sets it to the largest number before, and reads it when it next waits for the device.
    ///
    /// # Errors
    ///
    /// [`Error::Misaligned`], [`Error::TooLarge`], [`Error::Driver`].
    ///
    /// # Safety
    ///
    /// All addresses are on this device: `weights` of `len` numbers of `kind`, `codes` of [`packed_len`](crate::packed_len)
    /// bytes, `absmax` of one f32 for each block, `first_bad` of 8 bytes at a multiple of 8. The last three overlap nothing and
    /// nobody else uses them until `stream`, which is this device's, has passed this launch.
    #[expect(clippy::too_many_arguments, reason = "a kernel's parameters")]
    pub unsafe fn quantize(
        &self,
        stream: Stream,
        codebook: Codebook,
        block_size: BlockSize,
        kind: ElementKind,
        len: usize,
        weights: u64,
        codes: u64,
        absmax: u64,
        first_bad: u64,
    ) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        expect_aligned("weights", weights)?;
        expect_aligned("packed weights", codes)?;
        let grid = launch::quantize(block_size, len)?;
        let (codebook, log2_block, count) = (index(codebook), log2(block_size), len as u64);
        let mut arguments = [
            argument(&codebook),
            argument(&log2_block),
            argument(&count),
            argument(&weights),
            argument(&codes),
            argument(&absmax),
            argument(&first_bad),
        ];
        // SAFETY: the kernel has these seven parameters, of these types; the rest is the caller's.
        unsafe { self.module.launch(self.of(kind).quantize, grid, stream.0, &mut arguments) }
    }

    /// Unpacks the weights `first .. first + count` into `out`.
    ///
    /// # Errors
    ///
    /// [`Error::Range`] past the end, [`Error::NotAMultiple`] if `first` is no multiple of 8, [`Error::Misaligned`],
    /// [`Error::TooLarge`], [`Error::Driver`].
    ///
    /// # Safety
    ///
    /// All addresses are on this device: those of `packed` hold what its fields say, `out` has room for `count` numbers of
    /// `kind`, overlaps nothing, and nobody else uses it until `stream`, which is this device's, has passed this launch.
    pub unsafe fn dequantize(
        &self,
        stream: Stream,
        packed: &DevicePacked,
        kind: ElementKind,
        first: usize,
        count: usize,
        out: u64,
    ) -> Result<(), Error> {
        if first.checked_add(count).is_none_or(|end| end > packed.len) {
            let end = first.saturating_add(count);
            return Err(Error::Range { start: first, end, len: packed.len });
        }
        if count == 0 {
            return Ok(());
        }
        let grid = launch::dequantize(first, count)?;
        expect_aligned("packed weights", packed.codes)?;
        expect_aligned("output", out)?;
        let (codebook, scales) = (index(packed.codebook), packed.scales());
        let (first, count) = (first as u64, count as u64);
        let mut arguments = [
            argument(&codebook),
            argument(&first),
            argument(&count),
            argument(&packed.codes),
            argument(&scales),
            argument(&out),
        ];
        // SAFETY: the kernel has these six parameters, of these types; the rest is the caller's.
        unsafe { self.module.launch(self.of(kind).dequantize, grid, stream.0, &mut arguments) }
    }

    /// Unpacks the matrices of those experts that have rows, each into its own place in `out`; what stands in the places of the
    /// others is left as it is.
    ///
    /// `matrices` are [`ExpertMatrix::bytes`] of every matrix, `parts` to an expert and experts in order, `ends` the row after the
    /// last of each expert, in 32 bits. Both are read on the device, so nothing waits. `longest` is the longest matrix.
    ///
    /// # Errors
    ///
    /// [`Error::Misaligned`], [`Error::TooLarge`], [`Error::Driver`].
    ///
    /// # Safety
    ///
    /// All addresses are on this device, also those in `matrices`, which hold what their fields say and are `experts * parts`;
    /// `ends` are `experts` integers. `out` has room for every matrix of `kind` at its place, overlaps nothing, and nobody else
    /// uses it until `stream`, which is this device's, has passed this launch.
    #[expect(clippy::too_many_arguments, reason = "a kernel's parameters")]
    pub unsafe fn dequantize_experts(
        &self,
        stream: Stream,
        codebook: Codebook,
        kind: ElementKind,
        experts: usize,
        parts: usize,
        longest: usize,
        ends: u64,
        matrices: u64,
        out: u64,
    ) -> Result<(), Error> {
        if experts * parts == 0 || longest == 0 {
            return Ok(());
        }
        expect_aligned("output", out)?;
        let grid = launch::dequantize_experts(longest, experts * parts)?;
        // No more than rows of a grid.
        let parts = parts as u32;
        let codebook = index(codebook);
        let mut arguments =
            [argument(&codebook), argument(&parts), argument(&ends), argument(&matrices), argument(&out)];
        // SAFETY: the kernel has these five parameters, of these types; the rest is the caller's.
        unsafe { self.module.launch(self.of(kind).dequantize_experts, grid, stream.0, &mut arguments) }
    }

    /// Writes `x Wᵀ` into `y` for a batch of 1 to [`MOST_ROWS`] rows, straight from packed codes.
    ///
    /// Sums are in f32, within the bound that [`PackedMatrix::product`](crate::PackedMatrix::product) states; weights are not
    /// rounded to `kind`. NaN and infinite activations go through to the rows they belong to.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`], [`Error::Shape`] if `rows * columns` is not `packed.len`, [`Error::NotAMultiple`] if `columns` is no
    /// multiple of 8 (dequantize then), [`Error::Misaligned`], [`Error::TooLarge`], [`Error::Driver`].
    ///
    /// # Safety
    ///
    /// All addresses are on this device: those of `packed` hold what its fields say, `x` holds `batch * columns` numbers of
    /// `kind`, `y` has room for `batch * rows`, overlaps nothing, and nobody else uses it until `stream`, which is this device's,
    /// has passed this launch.
    #[expect(clippy::too_many_arguments, reason = "a kernel's parameters")]
    pub unsafe fn product(
        &self,
        stream: Stream,
        packed: &DevicePacked,
        kind: ElementKind,
        rows: usize,
        columns: usize,
        batch: usize,
        x: u64,
        y: u64,
    ) -> Result<(), Error> {
        if batch == 0 || batch > MOST_ROWS {
            return Err(Error::Batch { most: MOST_ROWS, found: batch });
        }
        if rows.checked_mul(columns) != Some(packed.len) {
            return Err(Error::Shape { rows, columns, len: packed.len });
        }
        let launch::Product { tile, words, grid } = launch::product(rows, columns, batch)?;
        expect_aligned("packed weights", packed.codes)?;
        expect_aligned("activations", x)?;
        if rows == 0 {
            return Ok(());
        }
        let function = self.of(kind).product(tile, words)?;
        let (codebook, scales) = (index(packed.codebook), packed.scales());
        let (rows, columns, batch) = (rows as u64, columns as u64, batch as u32);
        let mut arguments = [
            argument(&codebook),
            argument(&rows),
            argument(&columns),
            argument(&batch),
            argument(&packed.codes),
            argument(&scales),
            argument(&x),
            argument(&y),
        ];
        // SAFETY: the kernel has these eight parameters, of these types; the rest is the caller's.
        unsafe { self.module.launch(function, grid, stream.0, &mut arguments) }
    }
}
