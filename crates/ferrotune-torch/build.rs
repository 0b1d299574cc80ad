//! Compiles the C++ shim against the libtorch that `LIBTORCH` names, and makes its libraries findable at run time.
//!
//! Cargo puts a folder on the library path of what it runs (`run`, `test`, `bench`, doctests, also of crates that depend
//! on this one) only if a build script named it for linking and it lies in the target folder. So the libraries get a
//! second name in `OUT_DIR/lib`, all in that one folder, because they look for each other beside themselves.

use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

/// The releases whose headers the shim is written for; `tch` is bound to the same ones.
const EXPECTED: (u64, u64) = (2, 11);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=csrc");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Err(reason) = build() {
        println!("cargo::error={reason}");
        process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let libtorch = find_libtorch()?;
    check_version(&libtorch)?;
    compile_shim(&libtorch);

    // `cargo xtask setup --cuda` adds to it.
    println!("cargo::rerun-if-changed={}", libtorch.join("lib").display());
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    let run_path = out_dir.join("lib");
    link_libraries(&libtorch.join("lib"), &run_path)?;
    println!("cargo::rustc-link-search=native={}", run_path.display());
    for library in ["torch_cpu", "c10"] {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    // For the build script of a program that must start without cargo: `DEP_FERROTUNE_TORCH_LIB`.
    println!("cargo::metadata=LIB={}", libtorch.join("lib").display());
    Ok(())
}

fn find_libtorch() -> Result<PathBuf, String> {
    let value = env::var_os("LIBTORCH").filter(|value| !value.is_empty()).ok_or(
        "LIBTORCH is not set: run `cargo xtask setup`, or set it to a libtorch 2.11 folder with `include` and `lib`",
    )?;
    let folder = PathBuf::from(value);
    // A path, not a bare name: cargo hands over an absolute one, and so must whoever sets it by hand, because build
    // scripts of different packages run in different folders.
    if !folder.is_absolute() {
        return Err(format!("LIBTORCH is `{}`, expected an absolute path", folder.display()));
    }
    let version = version_header(&folder);
    println!("cargo::rerun-if-changed={}", version.display());
    if !version.is_file() {
        return Err(format!(
            "no libtorch in `{}` (its `include/torch/headeronly/version.h` is missing): run `cargo xtask setup`, or set LIBTORCH to a libtorch 2.11 folder",
            folder.display()
        ));
    }
    Ok(folder)
}

fn version_header(libtorch: &Path) -> PathBuf {
    libtorch.join("include/torch/headeronly/version.h")
}

fn check_version(libtorch: &Path) -> Result<(), String> {
    let path = version_header(libtorch);
    let header =
        fs::read_to_string(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let part = |name: &str| {
        let prefix = format!("#define TORCH_VERSION_{name} ");
        header.lines().find_map(|line| line.strip_prefix(&prefix)?.trim().parse::<u64>().ok())
    };
    let (Some(major), Some(minor), Some(patch)) = (part("MAJOR"), part("MINOR"), part("PATCH")) else {
        return Err(format!("`{}` names no libtorch version", path.display()));
    };
    if (major, minor) != EXPECTED {
        return Err(format!(
            "LIBTORCH `{}` is libtorch {major}.{minor}.{patch}, expected {}.{}: run `cargo xtask setup`, or set LIBTORCH to that release",
            libtorch.display(),
            EXPECTED.0,
            EXPECTED.1
        ));
    }
    println!("cargo::rustc-env=FERROTUNE_LIBTORCH_VERSION={major}.{minor}.{patch}");
    Ok(())
}

fn compile_shim(libtorch: &Path) {
    let include = libtorch.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // The time goes into libtorch, not into the shim.
        .opt_level(1)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        // libtorch's classes have members that exist in its debug builds only; what is released is built without.
        .define("NDEBUG", None)
        .warnings(true)
        .extra_warnings(true)
        // libtorch's headers are somebody else's: as system headers they do not warn.
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
        .files(["csrc/autograd.cpp", "csrc/flops.cpp", "csrc/runtime.cpp", "csrc/threads.cpp"])
        .compile("ferrotune_torch_shim");
}

/// Gives every library of `from` a name in `to`, and drops the names of a libtorch that was used before.
fn link_libraries(from: &Path, to: &Path) -> Result<(), String> {
    let describe = |error: io::Error| {
        format!("cannot link the libraries of `{}` into `{}`: {error}", from.display(), to.display())
    };
    if to.exists() {
        fs::remove_dir_all(to).map_err(describe)?;
    }
    fs::create_dir_all(to).map_err(describe)?;
    let mut folders = vec![from.to_path_buf()];
    folders.extend(wheel_siblings(from));
    for folder in folders {
        for entry in fs::read_dir(&folder).map_err(describe)? {
            let path = entry.map_err(describe)?.path();
            let Some(name) = path.file_name().filter(|name| is_shared_library(&name.to_string_lossy()))
            else {
                continue;
            };
            let target = to.join(name);
            if !target.exists() {
                link(&path, &target).map_err(describe)?;
            }
        }
    }
    if !to.join("libtorch_cpu.so").exists() {
        return Err(format!("`{}` holds no libtorch_cpu.so: run `cargo xtask setup`", from.display()));
    }
    Ok(())
}

/// A libtorch installed by pip finds NVIDIA's libraries in `../../nvidia/*/lib`; from `OUT_DIR` they lie elsewhere.
fn wheel_siblings(lib: &Path) -> Vec<PathBuf> {
    let Some(packages) = lib.parent().and_then(Path::parent) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(packages.join("nvidia")) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().join("lib")).filter(|folder| folder.is_dir()).collect()
}

fn is_shared_library(name: &str) -> bool {
    name.ends_with(".so") || name.contains(".so.") || name.ends_with(".dylib")
}

/// A hard link keeps what was built working when the original goes; another file system allows symbolic ones only.
#[cfg(unix)]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    let real = from.canonicalize()?;
    fs::hard_link(&real, to).or_else(|_| std::os::unix::fs::symlink(&real, to))
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    let real = from.canonicalize()?;
    fs::hard_link(&real, to).or_else(|_| fs::copy(&real, to).map(drop))
}
