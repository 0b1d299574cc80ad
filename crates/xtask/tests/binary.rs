//! The program itself: one sentence, an exit code that is not 0, nothing half-written.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made is a failed test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

struct Machine {
    folder: TempDir,
}

impl Machine {
    /// A root with nothing in it, and a PATH of stand-ins.
    fn with(tools: &[&str]) -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(this.tools()).unwrap();
        fs::create_dir_all(this.root().join("crates/xtask")).unwrap();
        for tool in tools {
            symlink(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake").join(tool),
                this.tools().join(tool),
            )
            .unwrap();
        }
        this.says("version.sh", "echo pip 23");
        this.says("download.sh", "exit 1");
        this.says("free-kib", "900000000");
        this
    }

    fn tools(&self) -> PathBuf {
        self.folder.path().join("tools")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn says(&self, name: &str, text: &str) {
        fs::write(self.tools().join(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        for name in [
            "LIBTORCH",
            "LIBTORCH_USE_PYTORCH",
            "LIBTORCH_INCLUDE",
            "LIBTORCH_LIB",
            "LIBTORCH_STATIC",
            "CXX",
            "HOST_CXX",
            "CXX_x86_64_unknown_linux_gnu",
        ] {
            command.env_remove(name);
        }
        command.env("CARGO_MANIFEST_DIR", self.root().join("crates/xtask")).env("PATH", self.tools());
        command.envs(environment.iter().copied()).args(arguments).output().unwrap()
    }

    /// Runs `setup`, which must fail with one sentence that holds `parts`, and leave the root as it was.
    fn check(&self, environment: &[(&str, &str)], parts: &[&str]) {
        let output = self.run(&["setup"], environment);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(output.stdout.is_empty());
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{said}");
        assert!(said.trim_end().ends_with(errors[0]), "the sentence is not the last line: {said}");
        for part in parts {
            assert!(errors[0].contains(part), "`{part}` is missing in: {}", errors[0]);
        }
        let left: Vec<_> =
            fs::read_dir(self.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "crates" || name == ".setup-lock.tmp"), "{left:?}");
    }
}

#[test]
fn a_missing_tool_is_named_with_its_remedy() {
    Machine::with(&["c++", "df"]).check(&[], &["python3 was not found", "apt-get install"]);
    Machine::with(&["python3", "df"])
        .check(&[], &["no C++ compiler", "c++, g++, clang++", "apt-get install g++"]);
    Machine::with(&["python3", "df"])
        .check(&[("CXX", "my-c++ -O2")], &["no C++ compiler", "tried my-c++ -O2"]);
    let machine = Machine::with(&["c++", "df", "python3"]);
    machine.says("version.sh", "echo '/usr/bin/python3: No module named pip' >&2; exit 1");
    machine.check(&[], &["has no pip", "python3-pip"]);
}

#[test]
fn a_full_disk_is_found_before_and_during_the_download() {
    let machine = Machine::with(&["c++", "df", "python3"]);
    machine.says("free-kib", "500000");
    machine.check(&[], &["1.1 GB are needed", "512 MB are free"]);
    machine.says("free-kib", "5000000");
    machine.says(
        "download.sh",
        "echo 'ERROR: Could not install: [Errno 28] No space left on device' >&2; exit 1",
    );
    machine.check(&[], &["became full", "libtorch 2.11.0 for the CPU"]);
}

#[test]
fn a_download_that_is_cut_short_twice_is_refused() {
    let machine = Machine::with(&["c++", "df", "python3"]);
    machine.says(
        "download.sh",
        "echo short > $destination/torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl; echo x >> $here/downloads",
    );
    machine.check(&[], &["downloaded twice", "7aa2f9bbc6d4595b"]);
    assert_eq!(fs::read_to_string(machine.tools().join("downloads")).unwrap().lines().count(), 2);
}

#[test]
fn a_libtorch_that_cannot_serve_is_refused_and_one_that_can_is_used_without_python() {
    let machine = Machine::with(&["c++"]);
    machine.check(&[("LIBTORCH", "libtorch")], &["not an absolute path"]);
    machine.check(&[("LIBTORCH_USE_PYTORCH", "1")], &["LIBTORCH_USE_PYTORCH", "unset it"]);
    machine.check(&[("LIBTORCH_LIB", "/usr")], &["LIBTORCH_LIB is set", "unset it"]);

    let own = machine.folder.path().join("own");
    let value = own.to_str().unwrap();
    machine.check(&[("LIBTORCH", value)], &["is not a libtorch", "version.h"]);
    // Releases before 2.9 had their version in another header.
    let old = own.join("include/torch/csrc/api/include/torch");
    fs::create_dir_all(&old).unwrap();
    let header = |minor: u32| {
        format!(
            "#pragma once\n#define TORCH_VERSION_MAJOR 2\n\n#define TORCH_VERSION_MINOR {minor}\n#define TORCH_VERSION_PATCH 0\n"
        )
    };
    fs::write(old.join("version.h"), header(8)).unwrap();
    machine.check(&[("LIBTORCH", value)], &["version 2.8.0", "needs 2.11.0", "set LIBTORCH"]);
    let new = own.join("include/torch/headeronly");
    fs::create_dir_all(&new).unwrap();
    fs::write(new.join("version.h"), header(11)).unwrap();
    machine.check(&[("LIBTORCH", value)], &["lacks `lib/libtorch_cpu.so`"]);
    fs::create_dir(own.join("lib")).unwrap();
    fs::write(own.join("lib/libtorch_cpu.so"), "").unwrap();
    let output = machine.run(&["setup", "--cuda"], &[("LIBTORCH", value)]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("lacks `lib/libtorch_cuda.so`"));

    let encoder = machine.root().join(".models/all-minilm-l6-v2");
    fs::create_dir_all(&encoder).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::write(encoder.join(name), "{}").unwrap();
    }
    let nvrtc = machine.root().join(".nvrtc/lib");
    fs::create_dir_all(&nvrtc).unwrap();
    fs::write(nvrtc.join("libnvrtc.so.13"), "").unwrap();
    let output = machine.run(&["setup"], &[("LIBTORCH", value)]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("setup: in place, nothing to download") && said.lines().count() == 1, "{said}");
}
