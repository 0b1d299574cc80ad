//! Hugging Face model folders: `model.safetensors`, or shards with `model.safetensors.index.json`.
//!
//! Headers are parsed once; tensors are then read by position, one at a time. Mapping the files instead would count
//! every touched page as resident memory of the process and would turn a truncated file into a signal.

mod file;
mod writer;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::{Dtype, tensor::Metadata};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result, WeightSource};

pub use file::{tensor_bytes, write_file, write_whole};
pub use writer::CheckpointWriter;

/// Larger headers are refused, as the safetensors reference does, before anything is allocated for them.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A weight is read in pieces of this size; a multiple of every type's size.
const PIECE_BYTES: usize = 1 << 20;

/// Says which tensor lies in which shard.
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model folder or of a single safetensors file.
///
/// ```
/// use ferrotune_nn::{WeightSource as _, checkpoint::{Checkpoint, CheckpointWriter}};
/// use tch::Tensor;
///
/// let folder = tempfile::tempdir()?;
/// let mut writer = CheckpointWriter::new(folder.path());
/// writer.push("model.norm.weight", &Tensor::from_slice(&[1.0_f32, 0.5]))?;
/// writer.finish()?;
///
/// let checkpoint = Checkpoint::open(folder.path())?;
/// assert_eq!(checkpoint.names(), ["model.norm.weight"]);
/// assert_eq!(checkpoint.read("model.norm.weight")?.size(), [2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    place: PathBuf,
    tensors: BTreeMap<String, Entry>,
    /// What a single file says beside its tensors.
    metadata: HashMap<String, String>,
}

#[derive(Debug)]
struct Entry {
    file: Arc<File>,
    path: Arc<PathBuf>,
    start: u64,
    bytes: u64,
    dtype: Dtype,
    shape: Vec<i64>,
}

impl Entry {
    /// Fills `bytes` from an offset within the tensor.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(bytes, self.start + offset)
            .map_err(|source| Error::Io { path: self.path.to_path_buf(), source })
    }
}

impl Checkpoint {
    /// Opens a model folder.
    ///
    /// # Errors
    /// [`Error::NoWeights`] with what to do if the folder holds weights in another format, [`Error::DamagedWeights`]
    /// if a file is incomplete, [`Error::ShardIndex`] if the index and the shards contradict each other.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join("model.safetensors");
        let index = folder.join(INDEX);
        // The single file first, as transformers does: an index that was left behind must not win over it.
        let (tensors, metadata) = if single.is_file() {
            read_header(&single)?
        } else if index.is_file() {
            (read_shards(folder, &index)?, HashMap::new())
        } else {
            return Err(Error::NoWeights { folder: folder.to_owned(), remedy: remedy(folder)? });
        };
        Ok(Self { place: folder.to_owned(), tensors, metadata })
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::DamagedWeights`].
    pub fn open_file(file: &Path) -> Result<Self> {
        let (tensors, metadata) = read_header(file)?;
        Ok(Self { place: file.to_owned(), tensors, metadata })
    }

    /// What a single file says under `key` beside its tensors; nothing for a folder of shards.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The stored type of a tensor.
    #[must_use]
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|entry| entry.dtype)
    }

    /// How many bytes a tensor takes in its file.
    #[must_use]
    pub fn stored_bytes(&self, name: &str) -> Option<u64> {
        self.tensors.get(name).map(|entry| entry.bytes)
    }

    /// A range of a tensor's bytes as they stand in its file, whatever its type.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Argument`] for a range that reaches past the end, [`Error::Io`].
    pub fn read_bytes(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let entry = self.entry(name)?;
        if range.start > range.end || range.end > entry.bytes {
            let found = format!("{range:?} of `{name}` with {} bytes", entry.bytes);
            return Err(Error::Argument { argument: "range", found, expected: "bytes that the tensor has" });
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        entry.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::MissingTensor { name: name.to_owned(), place: self.place() })
    }

    /// A weight's entry and the kind of tensor that holds it.
    fn weight(&self, name: &str) -> Result<(&Entry, Kind)> {
        let entry = self.entry(name)?;
        let kind = kind_of(entry.dtype).ok_or_else(|| Error::WrongType {
            name: name.to_owned(),
            place: self.place(),
            found: format!("{:?}", entry.dtype),
        })?;
        Ok((entry, kind))
    }
}

/// Reads a tensor of `shape` from the element `first` of a stored tensor on, in pieces, so that a weight is never in
/// memory twice.
fn read_elements(entry: &Entry, kind: Kind, first: i64, shape: &[i64]) -> Result<Tensor> {
    let tensor = Tensor::f_empty(shape, (kind, Device::Cpu))?;
    let (flat, size) = (tensor.f_view([-1])?, kind.elt_size_in_bytes());
    let mut bytes = vec![0; (tensor.numel() * size).min(PIECE_BYTES)];
    for from in (0..tensor.numel()).step_by(PIECE_BYTES / size) {
        let count = (tensor.numel() - from).min(PIECE_BYTES / size);
        let bytes = &mut bytes[..count * size];
        entry.read_exact_at(bytes, (first as usize + from) as u64 * size as u64)?;
        let piece = Tensor::f_from_data_size(bytes, &[count as i64], kind)?;
        flat.f_narrow(0, from as i64, count as i64)?.f_copy_(&piece)?;
    }
    Ok(tensor)
}

/// `range`, if it lies within `0..size`.
fn within(name: &str, shape: &[i64], range: Range<i64>, size: i64) -> Result<Range<i64>> {
    if range.start < 0 || range.start > range.end || range.end > size {
        let found = format!("{range:?} of `{name}` with shape {shape:?}");
        return Err(Error::Argument { argument: "rows", found, expected: "rows that the tensor has" });
    }
    Ok(range)
}

impl WeightSource for Checkpoint {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.tensors.get(name).map(|entry| entry.shape.clone())
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let (entry, kind) = self.weight(name)?;
        read_elements(entry, kind, 0, &entry.shape)
    }

    fn read_rows(&self, name: &str, rows: Range<i64>) -> Result<Tensor> {
        let (entry, kind) = self.weight(name)?;
        let mut shape = entry.shape.clone();
        let rows = within(name, &shape, rows, shape.first().copied().unwrap_or(-1))?;
        shape[0] = rows.end - rows.start;
        read_elements(entry, kind, rows.start * shape[1..].iter().product::<i64>(), &shape)
    }

    fn read_stacked(&self, name: &str, index: i64, rows: Range<i64>) -> Result<Tensor> {
        let (entry, kind) = self.weight(name)?;
        let &[stacked, height, width] = entry.shape.as_slice() else {
            let found = format!("`{name}` with shape {:?}", entry.shape);
            return Err(Error::Argument {
                argument: "name",
                found,
                expected: "a stacked tensor of matrices",
            });
        };
        within(name, &entry.shape, index..index + 1, stacked)?;
        let rows = within(name, &entry.shape, rows, height)?;
        let first = (index * height + rows.start) * width;
        read_elements(entry, kind, first, &[rows.end - rows.start, width])
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn place(&self) -> String {
        format!("`{}`", self.place.display())
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads and parses a JSON file.
///
/// # Errors
/// [`Error::Io`] and [`Error::Json`].
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// What to do about a folder whose weights cannot be read, from what lies in it.
fn remedy(folder: &Path) -> Result<String> {
    let entries =
        std::fs::read_dir(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    let extensions: Vec<_> =
        entries.flatten().filter_map(|entry| entry.path().extension()?.to_str().map(str::to_owned)).collect();
    let has = |extension: &str| extensions.iter().any(|found| found == extension);
    Ok(if has("bin") || has("pth") || has("pt") {
        ", only pickled weights, which can run code when read and are not read here; convert them once in Python with \
         `AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)`"
    } else if has("gguf") {
        ", only a GGUF file, which is not read here; fetch the model's safetensors"
    } else {
        "; is it a model folder, and was it downloaded completely?"
    }
    .to_owned())
}

/// The tensors of all shards that an index names.
///
/// A tensor that two shards hold is refused: which of the two values counts would depend on the order of reading. One that
/// a single shard holds and the index does not name is taken, as transformers takes it.
fn read_shards(folder: &Path, path: &Path) -> Result<BTreeMap<String, Entry>> {
    let index: Index = read_json(path)?;
    let wrong = |name: &str, problem: String| Error::ShardIndex {
        path: path.to_owned(),
        name: name.to_owned(),
        problem,
    };
    let mut shards: BTreeMap<&str, BTreeMap<String, Entry>> = BTreeMap::new();
    for (name, shard) in &index.weight_map {
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            return Err(wrong(
                name,
                format!("is placed in `{shard}`, expected the name of a file beside the index"),
            ));
        }
        if !shards.contains_key(shard.as_str()) {
            shards.insert(shard, read_header(&folder.join(shard))?.0);
        }
    }
    for (name, shard) in &index.weight_map {
        if !shards[shard.as_str()].contains_key(name) {
            return Err(wrong(name, format!("is placed in `{shard}`, which lacks it")));
        }
    }
    let mut merged = BTreeMap::new();
    for (shard, tensors) in shards {
        for (name, entry) in tensors {
            if let Some(other) = index.weight_map.get(&name).filter(|&other| other != shard) {
                return Err(wrong(&name, format!("is placed in `{other}`, and `{shard}` holds it too")));
            }
            if merged.contains_key(&name) {
                return Err(wrong(&name, format!("is placed nowhere, and `{shard}` and another hold it")));
            }
            merged.insert(name, entry);
        }
    }
    Ok(merged)
}

/// The tensors of a file, and what it says beside them.
fn read_header(path: &Path) -> Result<(BTreeMap<String, Entry>, HashMap<String, String>)> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let damaged = |reason: String| Error::DamagedWeights { path: path.to_owned(), reason };
    let file = File::open(path).map_err(io)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0).map_err(|_| damaged(format!("it has only {file_bytes} bytes")))?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAX_HEADER_BYTES || header_bytes + 8 > file_bytes {
        return Err(damaged(format!("its header claims {header_bytes} bytes and the file has {file_bytes}")));
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact_at(&mut header, 8).map_err(io)?;
    // Parsing checks that the tensors lie side by side, each with the bytes that its shape and type need.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
    let data_start = header_bytes + 8;
    let expected = data_start + metadata.data_len() as u64;
    if expected != file_bytes {
        return Err(damaged(format!("its header asks for {expected} bytes and the file has {file_bytes}")));
    }
    let (file, path) = (Arc::new(file), Arc::new(path.to_owned()));
    let entry = |info: &safetensors::tensor::TensorInfo| Entry {
        file: Arc::clone(&file),
        path: Arc::clone(&path),
        start: data_start + info.data_offsets.0 as u64,
        bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        dtype: info.dtype,
        shape: info.shape.iter().map(|&size| size as i64).collect(),
    };
    let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect();
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

/// The kind of tensor that holds a stored type, for those that weights come in.
fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::U8 => Kind::Uint8,
        _ => return None,
    })
}

pub(crate) fn dtype_of(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Double => Dtype::F64,
        Kind::Int64 => Dtype::I64,
        Kind::Uint8 => Dtype::U8,
        _ => return None,
    })
}
