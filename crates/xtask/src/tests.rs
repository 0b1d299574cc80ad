//! Set-up against a small index of our own.

#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made is a failed test")]

mod fixture;

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::host::Host;
use crate::libtorch::{Flavor, Source};
use crate::oracles;
use crate::pins::{Bundle, ENCODER, LIBTORCH_CPU, LIBTORCH_CUDA, NVRTC, Take, Wheel};
use crate::setup;

use fixture::{COPY, Fixture, HEADER, leak, names, wheel};

#[test]
fn a_first_run_takes_what_the_pins_name_and_a_second_run_downloads_nothing() {
    let fixture = Fixture::new();
    fixture.run().unwrap();
    fixture.assert_complete();
    assert_eq!(fixture.downloads(), ["tiny-torch", "tiny-runtime", "tiny-encoder", "tiny-nvrtc"]);
    let libtorch = fixture.root().join(".libtorch");
    assert_eq!(names(&libtorch), ["build-version", "ferrotune-setup.txt", "include", "lib"]);
    assert_eq!(names(&libtorch.join("lib")), ["libcudart.so.13", "libother.so", "libtorch_cpu.so"]);
    assert_eq!(fs::read(libtorch.join("lib/libtorch_cpu.so")).unwrap(), [7; 4000]);
    assert_eq!(names(&libtorch.join("include")), ["a.h", "torch"]);
    assert!(fixture.root().join(".models/tiny/1_Pooling/config.json").is_file());

    fixture.says("download.sh", "exit 1");
    fixture.says("version.sh", "exit 1");
    fixture.run().unwrap();
    assert_eq!(fixture.downloads().len(), 4);
}

#[test]
fn pip_is_asked_for_the_pinned_file_and_works_beside_its_destination() {
    let fixture = Fixture::new();
    fixture.says("download.sh", &format!("echo \"$TMPDIR\" >> \"$here/tmpdir\"{COPY}"));
    fixture.run().unwrap();
    let calls = fs::read_to_string(fixture.tools().join("calls")).unwrap();
    let first = calls.lines().find(|line| line.contains(" download ")).unwrap();
    for part in [
        "--no-deps",
        "--only-binary=:all:",
        "--abi cp311",
        "--platform manylinux_2_28_x86_64",
        "tiny-torch==1.0",
    ] {
        assert!(first.contains(part), "{part} is missing in {first}");
    }
    let temporary = fs::read_to_string(fixture.tools().join("tmpdir")).unwrap();
    assert!(temporary.starts_with(fixture.root().join(".libtorch.tmp").to_str().unwrap()), "{temporary}");
}

#[test]
fn a_download_cut_short_is_started_once_more() {
    let fixture = Fixture::new();
    let cut = format!(
        "{COPY}\nif [ $downloads = 1 ]; then f=$(echo $destination/*.whl); head -c 99 $f > $f.x; mv $f.x $f; fi"
    );
    fixture.says("download.sh", &cut);
    fixture.run().unwrap();
    fixture.assert_complete();
    assert_eq!(
        fixture.downloads(),
        ["tiny-torch", "tiny-torch", "tiny-runtime", "tiny-encoder", "tiny-nvrtc"]
    );
}

#[test]
fn a_download_that_breaks_off_is_started_once_more() {
    let fixture = Fixture::new();
    fixture.says(
        "download.sh",
        &format!("if [ $downloads = 2 ]; then echo 'ERROR: connection lost.' >&2; exit 2; fi{COPY}"),
    );
    fixture.run().unwrap();
    fixture.assert_complete();
    assert_eq!(
        fixture.downloads(),
        ["tiny-torch", "tiny-runtime", "tiny-runtime", "tiny-encoder", "tiny-nvrtc"]
    );
}

#[test]
fn a_file_with_another_hash_is_refused_after_two_downloads() {
    let fixture = Fixture::new();
    fixture.says("download.sh", &format!("{COPY}\nf=$(echo $destination/*.whl); echo more >> $f"));
    let error = fixture.run().unwrap_err();
    assert!(matches!(&error, Error::WrongHash { file, .. } if file.starts_with("tiny_torch")), "{error}");
    assert_eq!(fixture.downloads(), ["tiny-torch", "tiny-torch"]);
    fixture.assert_nothing_half_written(&[]);
}

#[test]
fn wheels_that_were_whole_are_kept_for_the_run_after_a_failure() {
    let fixture = Fixture::new();
    fixture.says("download.sh", &format!("case $requirement in tiny-runtime*) exit 2;; esac{COPY}"));
    let error = fixture.run().unwrap_err();
    assert!(matches!(error, Error::DownloadBroken { .. }), "{error}");
    fixture.assert_nothing_half_written(&[".libtorch.tmp"]);
    assert_eq!(names(&fixture.root().join(".libtorch.tmp")), ["wheels"]);
    fixture.says("download.sh", COPY);
    fixture.run().unwrap();
    fixture.assert_complete();
    assert_eq!(
        fixture.downloads(),
        ["tiny-torch", "tiny-runtime", "tiny-runtime", "tiny-runtime", "tiny-encoder", "tiny-nvrtc"]
    );
}

#[test]
fn leftovers_of_a_killed_run_are_not_trusted() {
    let fixture = Fixture::new();
    let staging = fixture.root().join(".libtorch.tmp");
    for folder in ["wheels/attempt-1/tmp", "new/lib", "old"] {
        fs::create_dir_all(staging.join(folder)).unwrap();
    }
    fs::write(staging.join("new/lib/stray.so"), "stray").unwrap();
    fs::write(staging.join("wheels").join(fixture.bundles.cpu.wheels[0].file), "half a wheel").unwrap();
    fixture.run().unwrap();
    fixture.assert_complete();
    assert_eq!(names(&fixture.root().join(".libtorch/lib")).len(), 3);
}

#[test]
fn a_disk_without_room_is_found_before_the_download() {
    let fixture = Fixture::new();
    fixture.says("free-kib", "3");
    let error = fixture.run().unwrap_err();
    assert!(matches!(error, Error::DiskTooSmall { free: 3072, .. }), "{error}");
    assert!(fixture.downloads().is_empty());
    fixture.assert_nothing_half_written(&[]);
}

#[test]
fn a_disk_that_fills_up_during_the_download_is_named_and_given_back() {
    let fixture = Fixture::new();
    let full = "case $requirement in tiny-runtime*) echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1;; esac";
    fixture.says("download.sh", &format!("{full}{COPY}"));
    let error = fixture.run().unwrap_err();
    assert!(matches!(&error, Error::DiskFull { what, .. } if what == "tiny libtorch"), "{error}");
    assert_eq!(fixture.downloads(), ["tiny-torch", "tiny-runtime"]);
    fixture.assert_nothing_half_written(&[]);
}

#[test]
fn what_pip_says_decides_the_advice() {
    let fixture = Fixture::new();
    fixture.says("download.sh", "echo 'ERROR: No matching distribution found for tiny' >&2; exit 1");
    assert!(matches!(fixture.run().unwrap_err(), Error::PackageUnavailable { .. }));
    let retries =
        "echo 'WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError' >&2";
    fixture.says(
        "download.sh",
        &format!("{retries}; echo 'ERROR: No matching distribution found for tiny' >&2; exit 1"),
    );
    assert!(matches!(fixture.run().unwrap_err(), Error::IndexUnreachable { .. }));
    assert_eq!(fixture.downloads().len(), 2, "neither is cured by a second download");
    fixture.says("version.sh", "echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    assert!(matches!(fixture.run().unwrap_err(), Error::PipMissing { .. }));
    fixture.says("version.sh", "echo 'ImportError: broken' >&2; exit 1");
    assert!(
        matches!(fixture.run().unwrap_err(), Error::PythonBroken { detail, .. } if detail == "ImportError: broken")
    );
    let host = Host { python: "/nowhere/python3".into(), ..fixture.host() };
    let error =
        setup::run(&fixture.root(), &host, &Source::Workspace, Flavor::Cpu, fixture.bundles).unwrap_err();
    assert!(matches!(error, Error::PythonMissing));
    let host = Host { compilers: vec!["/nowhere/c++".into()], ..fixture.host() };
    let error =
        setup::run(&fixture.root(), &host, &Source::Workspace, Flavor::Cpu, fixture.bundles).unwrap_err();
    assert!(matches!(error, Error::CompilerMissing { .. }));
}

#[test]
fn a_damaged_folder_of_ours_is_made_again() {
    let fixture = Fixture::new();
    fixture.run().unwrap();
    let library = fixture.root().join(".libtorch/lib/libtorch_cpu.so");
    fs::write(&library, "cut").unwrap();
    fixture.run().unwrap();
    fixture.assert_complete();
    assert_eq!(fs::read(&library).unwrap().len(), 4000);
    fs::remove_file(fixture.root().join(".models/tiny/config.json")).unwrap();
    fixture.run().unwrap();
    fixture.assert_complete();
    assert_eq!(fixture.downloads().len(), 4 + 2 + 1);
}

#[test]
fn a_damaged_folder_stays_in_place_until_its_successor_is_whole() {
    let fixture = Fixture::new();
    fixture.run().unwrap();
    let library = fixture.root().join(".libtorch/lib/libtorch_cpu.so");
    fs::write(&library, "cut").unwrap();
    fixture.says("download.sh", "exit 2");
    fixture.run().unwrap_err();
    assert_eq!(fs::read_to_string(&library).unwrap(), "cut");
    fixture.assert_nothing_half_written(&[".libtorch", ".models", ".nvrtc"]);
}

#[test]
fn a_folder_of_someone_else_is_used_or_refused_but_never_changed() {
    let fixture = Fixture::new();
    fixture.run().unwrap();
    for folder in [".libtorch", ".models/tiny"] {
        fs::remove_file(fixture.root().join(folder).join("ferrotune-setup.txt")).unwrap();
    }
    fixture.run().unwrap();
    let header = fixture.root().join(".libtorch/include/torch/headeronly/version.h");
    fs::write(&header, HEADER.replace("11", "9")).unwrap();
    assert!(matches!(fixture.run().unwrap_err(), Error::LibtorchVersion { found, .. } if found == "2.9.0"));
    fs::write(&header, HEADER).unwrap();
    fs::remove_file(fixture.root().join(".models/tiny/tokenizer.json")).unwrap();
    assert!(matches!(fixture.run().unwrap_err(), Error::ForeignFolder { missing: "tokenizer.json", .. }));
    assert_eq!(fixture.downloads().len(), 4);
}

#[test]
fn the_cuda_folder_serves_the_cpu_and_not_the_other_way_round() {
    let fixture = Fixture::new();
    fixture.run().unwrap();
    let cuda =
        || setup::run(&fixture.root(), &fixture.host(), &Source::Workspace, Flavor::Cuda, fixture.bundles);
    // Both tiny libtorches share their wheel's name, and the index holds the one written last, which is equal.
    cuda().unwrap();
    assert_eq!(fixture.downloads().len(), 6);
    assert!(fixture.root().join(".libtorch/lib/libtorch_cuda.so").is_file());
    fixture.run().unwrap();
    cuda().unwrap();
    assert_eq!(fixture.downloads().len(), 6);
}

#[test]
fn a_libtorch_that_brings_the_compiler_of_kernels_needs_no_other() {
    let fixture = Fixture::new();
    let library = fixture.root().join(".libtorch/lib/libnvrtc.so.13");
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    fs::write(&library, "NVRTC").unwrap();
    for name in ["include/torch/headeronly/version.h", "lib/libtorch_cpu.so"] {
        let path = fixture.root().join(".libtorch").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, HEADER).unwrap();
    }
    fixture.run().unwrap();
    assert_eq!(fixture.downloads(), ["tiny-encoder"]);
}

#[test]
fn runs_at_the_same_time_make_everything_once() {
    let fixture = Fixture::new();
    fixture.says("download.sh", &format!("sleep 0.2{COPY}"));
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| fixture.run())).collect();
        for run in runs {
            run.join().unwrap().unwrap();
        }
    });
    fixture.assert_complete();
    assert_eq!(fixture.downloads(), ["tiny-torch", "tiny-runtime", "tiny-encoder", "tiny-nvrtc"]);
}

#[test]
fn a_pin_that_names_a_lost_entry_is_an_error() {
    let mut fixture = Fixture::new();
    let wheels: &'static [Wheel] = vec![Wheel {
        takes: &[Take::File { from: "torch/lib/libgone.so", to: "lib/libgone.so" }],
        ..wheel(&fixture.tools(), "tiny-torch", &[], &[("torch/lib/libtorch_cpu.so", b"")])
    }]
    .leak();
    fixture.bundles.cpu = leak(Bundle { name: "tiny", wheels, ..LIBTORCH_CPU });
    // The pinned figure of the real bundle would ask for a gigabyte that the fake disk does not have.
    fixture.says("free-kib", "9000000");
    let error = fixture.run().unwrap_err();
    assert!(
        matches!(&error, Error::EntryMissing { entry, .. } if entry == "torch/lib/libgone.so"),
        "{error}"
    );
    assert!(!fixture.root().join(".libtorch").exists());
}

#[test]
fn pins_are_well_formed_and_cuda_holds_what_the_cpu_needs() {
    for bundle in [&LIBTORCH_CPU, &LIBTORCH_CUDA, &ENCODER, &NVRTC] {
        for wheel in bundle.wheels {
            let start = format!("{}-{}-", wheel.project.replace('-', "_"), wheel.version);
            assert!(wheel.file.starts_with(&start), "{}", wheel.file);
            assert!(
                wheel.sha256.len() == 64 && wheel.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{}",
                wheel.file
            );
        }
    }
    let wheels = |bundle: &Bundle| bundle.wheels.iter().map(|wheel| wheel.sha256).collect::<Vec<_>>();
    for served in [&LIBTORCH_CPU, &NVRTC] {
        assert!(wheels(served).iter().all(|wheel| wheels(&LIBTORCH_CUDA).contains(wheel)), "{}", served.name);
    }
}

#[test]
fn the_reference_libraries_get_one_environment_that_is_completed_later() {
    let fixture = Fixture::new();
    // `python3 -m venv FOLDER` gives a Python that accepts everything.
    let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/python3");
    fixture.says(
        "download.sh",
        &format!(
            "mkdir -p $requirement/bin; ln -s {} $requirement/bin/python; : > $requirement/bin/download.sh",
            fake.display()
        ),
    );
    let folder = fixture.root().join("oracles");
    fixture.says("free-kib", "6000000");
    let error = oracles::make(&fixture.root(), &fixture.host(), &folder).unwrap_err();
    assert!(matches!(error, Error::DiskTooSmall { .. }), "{error}");
    fixture.says("free-kib", "9000000");
    for _ in 0..2 {
        assert_eq!(
            oracles::make(&fixture.root(), &fixture.host(), &folder).unwrap(),
            folder.join("bin/python")
        );
    }
    let calls = fs::read_to_string(fixture.tools().join("calls")).unwrap();
    assert_eq!(calls.lines().filter(|line| line.starts_with("-m venv ")).count(), 1);
    let installs = fs::read_to_string(folder.join("bin/calls")).unwrap();
    assert_eq!(installs.lines().filter(|line| line.ends_with("crates/xtask/oracles.txt")).count(), 2);
}
