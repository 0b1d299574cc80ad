//! Writing one file at a time, whole or not at all.

use std::{borrow::Cow, collections::BTreeMap, fs::File, io::Write as _, path::Path};

use safetensors::Dtype;
use tch::{Device, Tensor};

use super::dtype_of;
use crate::{Error, Result};

/// The raw bytes of a tensor, copied to the host.
///
/// # Errors
/// [`Error::WrongType`] for a kind that safetensors files here do not hold.
pub fn tensor_bytes(name: &str, tensor: &Tensor) -> Result<(Dtype, Vec<usize>, Vec<u8>)> {
    let kind = tensor.kind();
    let dtype = dtype_of(kind).ok_or_else(|| Error::WrongType {
        name: name.to_owned(),
        place: "memory".to_owned(),
        found: format!("{kind:?}"),
    })?;
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok((dtype, tensor.size().iter().map(|&size| size as usize).collect(), bytes))
}

/// Writes tensors as one safetensors file, in the given order, under a temporary name that is then renamed.
///
/// # Errors
/// [`Error::Io`]; the destination is then what it was before.
pub fn write_file<'t>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'t Tensor)>,
    metadata: &[(&str, &str)],
) -> Result<()> {
    let views: Vec<(String, View)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let (dtype, shape, bytes) = tensor_bytes(&name, tensor)?;
            Ok((name, View { dtype, shape, bytes }))
        })
        .collect::<Result<_>>()?;
    let damaged = |reason: String| Error::DamagedWeights { path: path.to_owned(), reason };
    let bytes = safetensors::serialize(views, None).map_err(|error| damaged(error.to_string()))?;
    let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
    let metadata = serde_json::to_string(&metadata).map_err(|error| damaged(error.to_string()))?;
    write_whole(path, &with_metadata(&bytes, &metadata))
}

/// A safetensors file with more in its header. The crate that writes files takes metadata in no fixed order, and equal adapters
/// are to be equal files.
fn with_metadata(file: &[u8], metadata: &str) -> Vec<u8> {
    let (length, rest) = file.split_at(8);
    let length = length.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let (header, data) = rest.split_at(length);
    let tensors = header.trim_ascii().strip_prefix(b"{").unwrap_or_default();
    let mut header = format!("{{\"__metadata__\":{metadata}").into_bytes();
    header.extend_from_slice(if tensors == b"}" { b"" } else { b"," });
    header.extend_from_slice(tensors);
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// Writes a file under a temporary name beside it, puts it on disk and renames it.
///
/// # Errors
/// [`Error::Io`]; the destination is then what it was before.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        // The error that matters is the first; a leftover temporary file does no harm.
        let _ = std::fs::remove_file(&temporary);
        Error::Io { path: path.to_owned(), source }
    })
}

struct View {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl safetensors::View for View {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (&self.bytes).into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
