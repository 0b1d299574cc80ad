//! Which kind of file a path names: container, compression, and whether the first bytes agree.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use crate::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Json,
    JsonLines,
    Csv,
    Tsv,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const PARQUET_MAGIC: &[u8] = b"PAR1";
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Reads `name.json.gz` from right to left.
pub(super) fn of_path(path: &Path) -> Result<(Container, Compression), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, compression) = if let Some(stem) = name.strip_suffix(".gz") {
        (stem, Compression::Gzip)
    } else if let Some(stem) = name.strip_suffix(".zst") {
        (stem, Compression::Zstd)
    } else {
        (name.as_str(), Compression::None)
    };
    let container = match stem.rsplit_once('.').map(|(_, extension)| extension) {
        Some("json") => Container::Json,
        Some("jsonl" | "ndjson") => Container::JsonLines,
        Some("csv") => Container::Csv,
        Some("tsv") => Container::Tsv,
        Some("parquet") => Container::Parquet,
        _ => return Err(Error::UnknownExtension { path: path.to_owned() }),
    };
    Ok((container, compression))
}

/// The decompressed bytes of a file, checked against its name and past a byte order mark.
pub(super) fn open(
    path: &Path,
    container: Container,
    compression: Compression,
) -> Result<Box<dyn BufRead>, Error> {
    let read_error = |source| Error::Read { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(read_error)?);
    let head = file.fill_buf().map_err(read_error)?;
    if head.is_empty() {
        return Err(Error::Empty { path: path.to_owned() });
    }
    check(path, head, |head| match compression {
        Compression::Gzip => (!head.starts_with(GZIP_MAGIC)).then_some(("gzip", describe(head))),
        Compression::Zstd => (!head.starts_with(ZSTD_MAGIC)).then_some(("zstd", describe(head))),
        Compression::None => None,
    })?;
    let mut bytes: Box<dyn BufRead> = match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))),
        Compression::Zstd => {
            Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(file).map_err(read_error)?))
        }
    };
    let head = bytes.fill_buf().map_err(read_error)?;
    if head.is_empty() {
        return Err(Error::Empty { path: path.to_owned() });
    }
    check(path, head, |head| contradiction(container, head))?;
    if container != Container::Parquet && head.starts_with(b"\xef\xbb\xbf") {
        bytes.consume(3);
    }
    Ok(bytes)
}

/// Everything that is left of `bytes`.
pub(super) fn to_end(path: &Path, mut bytes: Box<dyn BufRead>) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    bytes.read_to_end(&mut all).map_err(|source: io::Error| Error::Read { path: path.to_owned(), source })?;
    Ok(all)
}

type Found = Option<(&'static str, (&'static str, &'static str))>;

fn check(path: &Path, head: &[u8], rule: impl Fn(&[u8]) -> Found) -> Result<(), Error> {
    match rule(head) {
        None => Ok(()),
        Some((expected, (found, remedy))) => Err(Error::NotWhatItsNameSays {
            path: path.to_owned(),
            expected,
            found: found.to_owned(),
            remedy,
        }),
    }
}

fn contradiction(container: Container, head: &[u8]) -> Found {
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(byte));
    let binary = [GZIP_MAGIC, ZSTD_MAGIC, PARQUET_MAGIC, LFS_POINTER, b"<!DOCTYPE", b"<html"];
    let is_binary = binary.iter().any(|magic| head.starts_with(magic)) || head.contains(&0);
    match container {
        Container::Parquet if !head.starts_with(PARQUET_MAGIC) => Some(("Parquet", describe(head))),
        Container::Parquet => None,
        Container::Json if is_binary => Some(("JSON", describe(head))),
        Container::Json if first == Some(&b'{') => Some((
            "a JSON array of records",
            (
                "begins with an object",
                "put the records in an array, or name a file of one object a line .jsonl",
            ),
        )),
        Container::Json if first.is_some_and(|&byte| byte != b'[') => Some((
            "a JSON array of records",
            ("does not begin with `[`", "give the file the extension of what it is"),
        )),
        Container::JsonLines if is_binary => Some(("JSON Lines", describe(head))),
        Container::JsonLines if first == Some(&b'[') => Some((
            "JSON Lines",
            ("begins with an array", "name a file with one JSON array .json, or put one object on each line"),
        )),
        Container::Csv if is_binary => Some(("CSV", describe(head))),
        Container::Tsv if is_binary => Some(("TSV", describe(head))),
        Container::Csv | Container::Tsv if first.is_some_and(|byte| b"[{".contains(byte)) => {
            Some(("delimited text", ("begins like JSON", "give it the extension .json or .jsonl")))
        }
        _ => None,
    }
}

fn describe(head: &[u8]) -> (&'static str, &'static str) {
    if head.starts_with(GZIP_MAGIC) {
        ("holds gzip data", "add .gz to its name after the real extension")
    } else if head.starts_with(ZSTD_MAGIC) {
        ("holds zstd data", "add .zst to its name after the real extension")
    } else if head.starts_with(PARQUET_MAGIC) {
        ("holds Parquet data", "give it the extension .parquet")
    } else if head.starts_with(LFS_POINTER) {
        ("is a Git LFS pointer, not the data", "fetch the file itself with `git lfs pull`")
    } else if head.starts_with(b"<!DOCTYPE") || head.starts_with(b"<html") {
        ("is a web page, not the data", "download the file itself")
    } else if head.contains(&0) {
        ("holds binary data or UTF-16 text", "save it as UTF-8 text or give it the extension of what it is")
    } else {
        ("does not begin as one", "give the file the extension of what it is, or fetch it again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_right_to_left() {
        let check = |name, expected| assert_eq!(of_path(Path::new(name)).ok(), expected, "{name}");
        check("a.json", Some((Container::Json, Compression::None)));
        check("a.b.JSONL.gz", Some((Container::JsonLines, Compression::Gzip)));
        check("x/a.csv.zst", Some((Container::Csv, Compression::Zstd)));
        check("a.tsv", Some((Container::Tsv, Compression::None)));
        check("a.parquet", Some((Container::Parquet, Compression::None)));
        check("a.gz", None);
        check("json", None);
        check("a.txt", None);
    }
}
