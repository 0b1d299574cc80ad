//! The kernels compiled by NVRTC, without a GPU: what is in the code, and how it is kept on disk.

use std::{cell::Cell, env, fs, io::Write as _, path::PathBuf};

use ferrotune_nf4::{
    BlockSize, Codebook, Error,
    cuda::{
        Cache, DevicePacked, DeviceScales, ENTRIES, ExpertMatrix, Kernels, NVRTC_VARIABLE, Nvrtc, Target,
    },
};
use sha2::Digest as _;

/// With this variable set a missing NVRTC fails the tests, so that continuous integration cannot lose them.
const REQUIRED: &str = "FERROTUNE_REQUIRE_NVRTC";

/// NVRTC, or a line that says why the test is left out.
fn nvrtc() -> Option<Nvrtc> {
    // Where set-up puts it: by itself, or with libtorch's CUDA libraries.
    let of_workspace = [".nvrtc/lib", ".libtorch/lib"]
        .map(|folder| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(folder));
    match Nvrtc::find(&of_workspace) {
        Ok(nvrtc) => Some(nvrtc),
        Err(error) if env::var_os(REQUIRED).is_some() => panic!("{REQUIRED} is set: {error}"),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
            None
        }
    }
}

/// The text of an entry point, up to the next.
fn body<'a>(ptx: &'a str, entry: &str) -> &'a str {
    let start = ptx.find(&format!(".entry {entry}(")).unwrap_or_else(|| panic!("{entry} is not there"));
    let rest = &ptx[start..];
    &rest[..rest[1..].find(".entry ").map_or(rest.len(), |end| end + 1)]
}

/// An entry's parameters: a type each, or the bytes of a structure.
fn parameters(body: &str) -> Vec<String> {
    let list = &body[..body.find(')').unwrap()];
    let of_line = |line: &str| {
        let words: Vec<&str> = line.trim().trim_start_matches(".param ").split_whitespace().collect();
        let last = words.last()?.trim_end_matches(',');
        match last.split_once('[') {
            Some((_, size)) => Some(size.trim_end_matches(']').to_owned()),
            None => Some((*words.first()?).to_owned()),
        }
    };
    list.lines().filter(|line| line.trim().starts_with(".param")).filter_map(of_line).collect()
}

/// What the launcher passes, by family; 24 bytes are the scales.
const PARAMETERS: [(&str, &[&str]); 4] = [
    ("quantize", &[".u32", ".u32", ".u64", ".u64", ".u64", ".u64", ".u64"]),
    ("dequantize_experts", &[".u32", ".u32", ".u64", ".u64", ".u64"]),
    ("dequantize", &[".u32", ".u64", ".u64", ".u64", "24", ".u64"]),
    ("product", &[".u32", ".u64", ".u64", ".u32", ".u64", "24", ".u64", ".u64"]),
];

fn check_ptx(capability: u32) {
    let Some(nvrtc) = nvrtc() else { return };
    let image = nvrtc.compile(Target::Ptx { capability }).unwrap();
    assert_eq!(image.code.last(), Some(&0), "the driver reads to a zero");
    let ptx = std::str::from_utf8(&image.code).unwrap();
    assert!(ptx.contains(&format!(".target sm_{capability}")));
    assert_eq!(ptx.matches(".entry ").count(), ENTRIES.len(), "an entry that is not listed");
    for entry in ENTRIES {
        let body = body(ptx, entry);
        let has = |what: &str| body.contains(what);
        let (_, expected) = PARAMETERS.iter().find(|(family, _)| entry.starts_with(family)).unwrap();
        assert_eq!(parameters(body), *expected, "{entry}: not the parameters that the launcher passes");
        // Memory of a thread's own means an array that did not fit in registers.
        assert!(!has(".local"), "{entry} has local memory");
        assert!(!has(".ftz") && !has(".approx") && !has(".f64"), "{entry} is not in IEEE single precision");
        assert!(has("ld.global.nc.v4.u32"), "{entry} reads no 16 bytes at a time");
        if entry.starts_with("product") {
            assert!(has("ld.shared.v4.") && has("st.shared.v4.") && has("fma.rn.f32"), "{entry}");
        } else {
            assert!(has("st.global.v4."), "{entry} writes no 16 bytes at a time");
            assert!(!has("fma."), "{entry} fuses what the reference rounds twice");
        }
        if entry.starts_with("quantize") {
            assert!(has("rcp.rn.f32") || has("div.rn.f32"), "{entry}: the reciprocal is not IEEE's");
        }
        if entry.starts_with("dequantize") {
            assert!(
                has("mul.rn.f32") && has("add.rn.f32"),
                "{entry}: the nested scale is not a product, then a sum"
            );
        }
    }
}

#[test]
fn every_kernel_compiles_for_compute_80_as_it_is_meant() {
    check_ptx(80);
}

#[test]
fn every_kernel_compiles_for_compute_90_as_it_is_meant() {
    check_ptx(90);
}

/// Registers of a multiprocessor, since compute capability 3.0.
const REGISTERS: u32 = 65_536;

fn check_machine_code(capability: u32) {
    let Some(nvrtc) = nvrtc() else { return };
    let image = nvrtc.compile(Target::Cubin { capability }).unwrap();
    assert!(image.code.starts_with(b"\x7fELF"));
    let of_entry = |entry: &str| {
        let start = image.log.find(&format!("Compiling entry function '{entry}'")).unwrap();
        let rest = &image.log[start..];
        rest[..rest.find("Compile time").unwrap()].to_owned()
    };
    for entry in ENTRIES {
        let said = of_entry(entry);
        assert!(
            said.contains("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"),
            "{entry} spills: {said}"
        );
        let registers =
            said.split("Used ").nth(1).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap();
        // Two blocks of 256 threads at the least, or loads are not hidden.
        assert!(2 * 256 * registers <= REGISTERS, "{entry} uses {registers} registers");
    }
}

#[test]
fn machine_code_for_sm_80_keeps_everything_in_registers() {
    check_machine_code(80);
}

#[test]
fn machine_code_for_sm_90_keeps_everything_in_registers() {
    check_machine_code(90);
}

#[test]
fn a_devices_own_architecture_is_taken_or_the_one_before_it() {
    let Some(nvrtc) = nvrtc() else { return };
    assert!(nvrtc.version().0 >= 12, "{:?}", nvrtc.version());
    assert_eq!(nvrtc.target(80), Ok(Target::Cubin { capability: 80 }));
    assert_eq!(nvrtc.target(90), Ok(Target::Cubin { capability: 90 }));
    // No such device: PTX of the last before it runs there.
    assert!(matches!(nvrtc.target(99), Ok(Target::Ptx { capability: 90..99 })));
    assert_eq!(nvrtc.target(75), Err(Error::DeviceTooOld { found: 75, lowest: 80 }));
}

#[test]
fn a_second_compilation_for_the_same_device_is_read_from_disk() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let target = Target::Ptx { capability: 80 };
    let code = nvrtc.compile_cached(target, &cache).unwrap();
    let entries: Vec<PathBuf> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    // What is read is the file: another content under the right digest comes back.
    let mut other = sha2::Sha256::digest(b"other").to_vec();
    other.extend_from_slice(b"other");
    fs::write(entry, other).unwrap();
    assert_eq!(nvrtc.compile_cached(target, &cache).unwrap(), b"other");
    // Cut short it is made again.
    fs::write(entry, b"other").unwrap();
    assert_eq!(nvrtc.compile_cached(target, &cache).unwrap(), code);
}

#[test]
fn a_damaged_entry_of_the_cache_is_made_again_and_a_whole_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(&folder.path().join("not/there/yet"));
    let made = Cell::new(0);
    let get = |key: &[&[u8]]| {
        cache.get_or_make(key, || {
            made.set(made.get() + 1);
            Ok::<_, Error>(vec![made.get(); 100])
        })
    };
    assert_eq!(get(&[b"a", b"b"]).unwrap(), [1; 100]);
    assert_eq!(get(&[b"a", b"b"]).unwrap(), [1; 100]);
    assert_eq!(get(&[b"ab"]).unwrap(), [2; 100], "keys do not run together");
    let place = folder.path().join("not/there/yet");
    for entry in fs::read_dir(&place).unwrap() {
        let path = entry.unwrap().path();
        let mut content = fs::read(&path).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&path, content).unwrap();
    }
    assert_eq!(get(&[b"a", b"b"]).unwrap(), [3; 100]);
    assert_eq!(get(&[b"a", b"b"]).unwrap(), [3; 100]);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "temporary files stay behind");
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_compilation_and_is_no_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = Cache::at(&file.path().join("below-a-file"));
    for _ in 0..2 {
        assert_eq!(cache.get_or_make(&[b"key"], || Ok::<_, Error>(vec![7])).unwrap(), [7]);
    }
    let failing = Cache::none().get_or_make(&[], || Err(Error::BlockSize { found: 1 }));
    assert_eq!(failing, Err(Error::BlockSize { found: 1 }));
}

#[test]
fn a_machine_without_a_gpu_gets_an_error_that_says_so() {
    // Far beyond the devices of any machine, so that this holds where there are some.
    match Kernels::for_device(999, &[], &Cache::none()) {
        Err(Error::CudaUnavailable { reason }) => assert!(
            ["libcuda", "cuInit", "no device 999"].iter().any(|part| reason.contains(part)),
            "{reason}"
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_error_without_nvrtc_says_how_to_get_it() {
    let error = Error::NvrtcUnavailable { reason: "no libnvrtc.so.13 in `x`".to_owned() }.to_string();
    assert!(error.contains("cargo xtask setup") && error.contains(NVRTC_VARIABLE), "{error}");
}

#[test]
fn an_experts_matrix_is_written_as_the_kernel_reads_it() {
    let scales = DeviceScales::Nested { codes: 0x2222, absmax: 0x3333, offset: -1.5 };
    let packed = DevicePacked {
        codebook: Codebook::Nf4,
        block_size: BlockSize::new(64).unwrap(),
        len: 4096,
        codes: 0x1110,
        scales,
    };
    let bytes = ExpertMatrix { packed, place: 8192 }.bytes().unwrap();
    let word = |index: usize| u64::from_le_bytes(bytes[8 * index..][..8].try_into().unwrap());
    // dequantize.cu: the codes; absmax, nested codes, the offset's bits (sign, exponent 127, one half) below log2 of the
    // block size; weights; place. NVRTC checks the sizes.
    assert_eq!([word(0), word(1), word(2), word(4), word(5)], [0x1110, 0x3333, 0x2222, 4096, 8192]);
    assert_eq!(word(3), 6 << 32 | 0xbfc0_0000);
    let misplaced = ExpertMatrix { packed, place: 4 }.bytes();
    assert!(matches!(misplaced, Err(Error::NotAMultiple { found: 4, multiple: 8, .. })));
    let misaligned = ExpertMatrix { packed: DevicePacked { codes: 0x1118, ..packed }, place: 0 }.bytes();
    assert!(matches!(misaligned, Err(Error::Misaligned { address: 0x1118, multiple: 16, .. })));
}
