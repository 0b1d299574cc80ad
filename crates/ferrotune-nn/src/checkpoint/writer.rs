//! Writing a model's weights, one tensor at a time.
//!
//! What was pushed waits on the disk, not in memory: a safetensors file begins with a header that says where each tensor
//! lies, so a shard is put together when it is complete. Tensors wait in one file for each size of element and are laid out
//! from the widest to the narrowest, which keeps all of them aligned, as readers that map the file expect.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use tch::{Device, Tensor};

use super::{INDEX, dtype_of, write_whole};
use crate::{Error, Result};

/// Shards are closed at this size, the ecosystem's usual one.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Elements copied out of a tensor at a time.
const CHUNK: i64 = 1 << 20;

/// The multiple to which headers are filled with spaces, so that data begin aligned.
const HEADER_ALIGNMENT: usize = 8;

/// Writes a model's weights into a folder: one `model.safetensors`, or shards with an index beyond 5 GB.
///
/// Memory holds no more than what is pushed at the moment; until its shard is complete a tensor waits in a file without a
/// name, which vanishes with the process.
#[derive(Debug)]
pub struct CheckpointWriter {
    folder: PathBuf,
    pending: Shard,
    shards: Vec<Vec<String>>,
    total_bytes: u64,
    shard_bytes: u64,
}

/// Tensors that wait for their header, by the size of their elements.
#[derive(Debug, Default)]
struct Shard {
    waiting: BTreeMap<Reverse<usize>, Waiting>,
    bytes: u64,
}

#[derive(Debug)]
struct Waiting {
    file: File,
    tensors: Vec<(String, Dtype, Vec<usize>, usize)>, // name, type, shape, bytes
}

impl CheckpointWriter {
    /// A writer into an existing folder.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self::with_shard_bytes(folder, SHARD_BYTES)
    }

    /// A writer that closes shards at another size.
    #[must_use]
    pub fn with_shard_bytes(folder: &Path, shard_bytes: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            pending: Shard::default(),
            shards: Vec::new(),
            total_bytes: 0,
            shard_bytes,
        }
    }

    /// Bytes of all tensors that were pushed.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// [`Error::WrongType`] for a kind that safetensors files here do not hold, and [`Error::Io`].
    pub fn push(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.push_all(&[(name, tensor)])
    }

    /// Adds tensors that belong together and must not be spread over shards: a quantized weight and its scales.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_all(&mut self, tensors: &[(&str, &Tensor)]) -> Result<()> {
        let size = |tensor: &Tensor| tensor.numel() as u64 * tensor.kind().elt_size_in_bytes() as u64;
        let bytes: u64 = tensors.iter().map(|(_, tensor)| size(tensor)).sum();
        if self.pending.bytes > 0 && self.pending.bytes + bytes > self.shard_bytes {
            self.flush()?;
        }
        for (name, tensor) in tensors {
            self.pending.push(&self.folder, name, tensor)?;
        }
        self.pending.bytes += bytes;
        self.total_bytes += bytes;
        Ok(())
    }

    /// Writes what is left, and the index if there are several shards.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        if !self.pending.waiting.is_empty() || self.shards.is_empty() {
            self.flush()?;
        }
        let count = self.shards.len();
        let rename = |from: PathBuf, to: PathBuf| {
            fs::rename(&from, &to).map_err(|source| Error::Io { path: to, source })
        };
        let (single, index_file) = (self.folder.join("model.safetensors"), self.folder.join(INDEX));
        // Weights of the other form, left by a former model, would be read instead of these.
        let stale = |path: &Path| match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { path: path.to_owned(), source })
            }
            _ => Ok(()),
        };
        if count == 1 {
            rename(self.folder.join(part_name(1)), single)?;
            return stale(&index_file);
        }
        // An index over shards of which some are new already would be read as one model.
        stale(&index_file)?;
        let mut weight_map = serde_json::Map::new();
        for (number, names) in (1..).zip(&self.shards) {
            let file = format!("model-{number:05}-of-{count:05}.safetensors");
            rename(self.folder.join(part_name(number)), self.folder.join(&file))?;
            weight_map.extend(names.iter().map(|name| (name.clone(), file.clone().into())));
        }
        let index =
            serde_json::json!({ "metadata": { "total_size": self.total_bytes }, "weight_map": weight_map });
        write_whole(&index_file, format!("{index:#}\n").as_bytes())?;
        stale(&single)
    }

    fn flush(&mut self) -> Result<()> {
        let path = self.folder.join(part_name(self.shards.len() + 1));
        let names = std::mem::take(&mut self.pending).write(&path)?;
        self.shards.push(names);
        Ok(())
    }
}

impl Shard {
    fn push(&mut self, folder: &Path, name: &str, tensor: &Tensor) -> Result<()> {
        let kind = tensor.kind();
        let Some(dtype) = dtype_of(kind) else {
            let (name, place, found) = (name.to_owned(), "memory".to_owned(), format!("{kind:?}"));
            return Err(Error::WrongType { name, place, found });
        };
        let width = kind.elt_size_in_bytes();
        let path = folder.join(format!(".waiting-{width}.tmp"));
        let on = |source| Error::Io { path: path.clone(), source };
        let waiting = match self.waiting.entry(Reverse(width)) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
                let file = file.map_err(on)?;
                fs::remove_file(&path).map_err(on)?;
                entry.insert(Waiting { file, tensors: Vec::new() })
            }
        };
        let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?;
        let elements = flat.size()[0];
        let mut bytes = vec![0; CHUNK.min(elements) as usize * width];
        for start in (0..elements).step_by(CHUNK as usize) {
            let count = CHUNK.min(elements - start) as usize;
            flat.f_narrow(0, start, count as i64)?.f_copy_data_u8(&mut bytes, count)?;
            waiting.file.write_all(&bytes[..count * width]).map_err(on)?;
        }
        let shape = tensor.size().iter().map(|&size| size as usize).collect();
        waiting.tensors.push((name.to_owned(), dtype, shape, elements as usize * width));
        Ok(())
    }

    /// Writes the safetensors file and returns its tensors' names.
    fn write(self, path: &Path) -> Result<Vec<String>> {
        let mut offset = 0;
        let mut infos = Vec::new();
        for (name, dtype, shape, bytes) in self.waiting.values().flat_map(|waiting| &waiting.tensors) {
            let data_offsets = (offset, offset + bytes);
            infos.push((name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets }));
            offset += bytes;
        }
        let names = infos.iter().map(|(name, _)| name.clone()).collect();
        let format = [("format".to_owned(), "pt".to_owned())].into();
        let damaged = |reason: String| Error::DamagedWeights { path: path.to_owned(), reason };
        let metadata = Metadata::new(Some(format), infos).map_err(|error| damaged(error.to_string()))?;
        let mut header = serde_json::to_vec(&metadata).map_err(|error| damaged(error.to_string()))?;
        header.resize(header.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
        let written = File::create(path).and_then(|mut file| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            for mut waiting in self.waiting.into_values() {
                waiting.file.rewind()?;
                io::copy(&mut waiting.file, &mut file)?;
            }
            file.sync_all()
        });
        match written {
            Ok(()) => Ok(names),
            Err(source) => {
                // The error that matters is the first.
                let _ = fs::remove_file(path);
                Err(Error::Io { path: path.to_owned(), source })
            }
        }
    }
}

/// The name of a shard while the number of shards is not known.
fn part_name(number: usize) -> String {
    format!("model-{number:05}.part.safetensors")
}
