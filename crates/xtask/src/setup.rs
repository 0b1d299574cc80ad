//! `cargo xtask setup`: libtorch, the sentence encoder and the compiler of the CUDA kernels, fetched once.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Instant;

use crate::bundle::{self, State};
use crate::error::{Error, Result, io_error, size};
use crate::host::Host;
use crate::libtorch::{self, Flavor, Source};
use crate::pins::{Bundle, ENCODER, LIBTORCH_CPU, LIBTORCH_CUDA, LIBTORCH_VERSION, NVRTC};

/// What set-up can make; tests hand in small ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bundles {
    pub(crate) cpu: &'static Bundle,
    pub(crate) cuda: &'static Bundle,
    pub(crate) encoder: &'static Bundle,
    pub(crate) nvrtc: &'static Bundle,
}

impl Bundles {
    /// The pinned ones.
    pub(crate) const PINNED: Self =
        Self { cpu: &LIBTORCH_CPU, cuda: &LIBTORCH_CUDA, encoder: &ENCODER, nvrtc: &NVRTC };
}

/// What is there already, in words, and what is to be made.
#[derive(Debug, Default)]
struct Plan {
    present: Vec<String>,
    missing: Vec<&'static Bundle>,
}

/// Makes sure that the build finds a C++ compiler and a libtorch of the right version, the study its encoder, and
/// the tests the compiler of the CUDA kernels.
/// Downloads only what is missing, and holds a lock meanwhile, so that runs at the same time make it once.
///
/// # Errors
/// Every variant of [`Error`] that names a cause on this machine or on the way to the index. What was complete before
/// still is; nothing half-made stands in a final place.
pub(crate) fn run(root: &Path, host: &Host, source: &Source, flavor: Flavor, bundles: Bundles) -> Result<()> {
    host.check_compiler()?;
    if let Some(line) = in_place(&plan(root, source, flavor, bundles)?) {
        eprintln!("{line}");
        return Ok(());
    }
    host.check_pip()?;
    let _lock = lock(root)?;
    let started = Instant::now();
    // Another run may have finished while this one waited.
    let plan = plan(root, source, flavor, bundles)?;
    for bundle in &plan.missing {
        if bundle::state(root, bundle)? == State::Stale && root.join(bundle.folder).exists() {
            eprintln!("setup: {} is damaged or from other pins, making it again", bundle.folder);
        }
        bundle::install(root, host, bundle)?;
    }
    match in_place(&plan) {
        Some(line) => eprintln!("{line}"),
        None => {
            let made: Vec<String> = plan
                .missing
                .iter()
                .map(|bundle| format!("{} ({} in {})", bundle.name, size(bundle.kept_bytes), bundle.folder))
                .collect();
            eprintln!("setup: done in {} s: {}", started.elapsed().as_secs(), made.join(", "));
        }
    }
    Ok(())
}

fn in_place(plan: &Plan) -> Option<String> {
    plan.missing
        .is_empty()
        .then(|| format!("setup: in place, nothing to download: {}", plan.present.join(", ")))
}

fn plan(root: &Path, source: &Source, flavor: Flavor, bundles: Bundles) -> Result<Plan> {
    let mut plan = Plan::default();
    match source {
        Source::Own(folder) => {
            libtorch::check(folder, flavor)?;
            plan.present.push(format!("libtorch {LIBTORCH_VERSION} in {} (LIBTORCH)", folder.display()));
        }
        Source::Workspace => plan_libtorch(root, flavor, bundles, &mut plan)?,
    }
    plan_bundle(root, bundles.encoder, "sentence encoder", &mut plan)?;
    // The kernels are compiled where there is a wheel; elsewhere their tests say that they are skipped. Libtorch with CUDA
    // brings its own.
    let nvrtc = bundles.nvrtc;
    let brought = plan.missing.iter().any(|bundle| bundle.name == bundles.cuda.name)
        || nvrtc.essential.iter().all(|file| root.join(bundles.cuda.folder).join(file).is_file());
    if WHEELS_FIT && !brought {
        plan_bundle(root, nvrtc, "NVRTC", &mut plan)?;
    }
    Ok(plan)
}

/// Whether the wheels are built for this machine.
const WHEELS_FIT: bool = cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"));

/// A bundle that is one or somebody's own.
fn plan_bundle(root: &Path, bundle: &'static Bundle, called: &str, plan: &mut Plan) -> Result<()> {
    match bundle::state(root, bundle)? {
        State::Complete => plan.present.push(format!("{} in {}", bundle.name, bundle.folder)),
        State::Foreign => {
            libtorch::check_essential(&root.join(bundle.folder), bundle)?;
            plan.present.push(format!("your own {called} in {}", bundle.folder));
        }
        State::Absent | State::Stale => plan.missing.push(bundle),
    }
    Ok(())
}

fn plan_libtorch(root: &Path, flavor: Flavor, bundles: Bundles, plan: &mut Plan) -> Result<()> {
    // The CUDA bundle holds everything that the CPU's does.
    let serving: &[&'static Bundle] = match flavor {
        Flavor::Cpu => &[bundles.cpu, bundles.cuda],
        Flavor::Cuda => &[bundles.cuda],
    };
    for bundle in serving {
        match bundle::state(root, bundle)? {
            State::Complete => {
                plan.present.push(format!("{} in {}", bundle.name, bundle.folder));
                return Ok(());
            }
            State::Foreign => {
                libtorch::check(&root.join(bundle.folder), flavor)?;
                plan.present.push(format!("your own libtorch {LIBTORCH_VERSION} in {}", bundle.folder));
                return Ok(());
            }
            State::Absent | State::Stale => {}
        }
    }
    if !WHEELS_FIT {
        return Err(Error::PlatformWithoutWheel { os: std::env::consts::OS, arch: std::env::consts::ARCH });
    }
    plan.missing.push(serving[0]);
    Ok(())
}

/// Takes the checkout's set-up lock, waiting for another run. The lock ends with the process, however it ends; the
/// empty file stays, because removing it would let two runs hold two locks.
fn lock(root: &Path) -> Result<File> {
    let path = root.join(".setup-lock.tmp");
    let file = File::create(&path).map_err(io_error("create", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("setup: another run in this checkout is at it, waiting for it");
            file.lock().map_err(io_error("lock", &path))?;
        }
        Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
    }
    Ok(file)
}
