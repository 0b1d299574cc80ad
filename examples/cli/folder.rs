//! Output that appears complete or not at all.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use clap::Args;
use ferrotune::Error;

use super::Result;

/// Where a program writes a folder.
#[derive(Args, Debug)]
pub(crate) struct OutputFlags {
    /// Folder to write, complete or not at all
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Replaces an output folder that is not empty
    #[arg(long)]
    force: bool,
}

impl OutputFlags {
    /// Has the folder filled by [`write_folder`], unless that is, or holds, one of the folders that are read.
    pub(crate) fn write<T>(&self, inputs: &[&Path], fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        refuse_inputs(&self.output, inputs)?;
        write_folder(&self.output, self.force, fill)
    }
}

/// Fills a new folder: `fill` writes beside it, and a rename puts everything in place.
///
/// A folder that holds something is replaced only if `force` is set, and only once the new one is complete.
fn write_folder<T>(folder: &Path, force: bool, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    if folder.is_file() {
        let folder = folder.display();
        return Err(format!("`{folder}` is a file, expected a folder to write; choose another name").into());
    }
    refuse_a_broken_link(folder)?;
    if force {
        refuse_to_replace(folder)?
    } else {
        refuse_to_fill(folder)?
    }
    let folder = &folder.canonicalize().unwrap_or_else(|_| folder.to_owned()); // a link stays where it is
    let (stage, former) = (beside(folder, ".incomplete"), beside(folder, ".former"));
    remove(&stage)?;
    let is_missing = |above: &&Path| !above.as_os_str().is_empty() && !above.exists();
    let missing: Vec<&Path> = folder.ancestors().skip(1).take_while(is_missing).collect();
    let filled = fill_stage(&stage, fill).and_then(|filled| {
        if folder.exists() {
            remove(&former)?;
            fs::rename(folder, &former).map_err(on(folder))?;
        }
        if let Err(problem) = fs::rename(&stage, folder) {
            let _ = fs::rename(&former, folder); // what was there is there again
            return Err(on(folder)(problem).into());
        }
        remove(&former)?;
        Ok(filled)
    });
    if filled.is_err() {
        // The error that matters is the first. Of the folders above, only what is empty goes.
        let _ = fs::remove_dir_all(&stage);
        missing.into_iter().for_each(|above| drop(fs::remove_dir(above)));
    }
    filled
}

/// Makes a folder, has it filled, and sees everything in it onto the disk.
fn fill_stage<T>(stage: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    fs::create_dir_all(stage).map_err(on(stage))?;
    let filled = fill(stage)?;
    put_on_disk(stage).map_err(on(stage))?;
    Ok(filled)
}

/// Refuses a link that leads nowhere: no folder can take its place, and which one it should lead to is not known here.
pub(crate) fn refuse_a_broken_link(folder: &Path) -> Result<()> {
    if !folder.is_symlink() || folder.exists() {
        return Ok(());
    }
    let (link, target) = (folder.display(), fs::read_link(folder).map_err(on(folder))?);
    let target = target.display();
    Err(format!("`{link}` is a link that leads nowhere (to `{target}`); make that folder, or choose another")
        .into())
}

/// Refuses a folder that holds something.
pub(crate) fn refuse_to_fill(folder: &Path) -> Result<()> {
    let first = match fs::read_dir(folder) {
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(on(folder))?.next(),
    };
    match first.transpose().map_err(on(folder))? {
        None => Ok(()),
        Some(entry) => Err(format!(
            "`{}` is not empty (it holds `{}`); choose another folder, or replace this one with --force",
            folder.display(),
            entry.file_name().display()
        )
        .into()),
    }
}

/// What the folders that these programs write hold, one or the other.
const WRITTEN: [&str; 2] = ["config.json", "adapter_config.json"];

/// Whether a file is one of a model or an adapter: weights, settings, tokenizers, chat templates, model cards.
fn belongs(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default();
    let by_name = ["merges.txt", "vocab.txt", "README.md"].iter().any(|written| name == *written);
    let kind = file.extension().is_some_and(|kind| {
        ["json", "safetensors", "model", "jinja"].iter().any(|written| kind == OsStr::new(written))
    });
    file.is_file() && (by_name || kind)
}

/// Refuses to replace a folder that holds something else than a model or an adapter, and the one that the program runs in.
fn refuse_to_replace(folder: &Path) -> Result<()> {
    if refuse_to_fill(folder).is_ok() {
        return Ok(()); // nothing is lost
    }
    let name = folder.display();
    if !WRITTEN.iter().any(|file| folder.join(file).is_file()) {
        return Err(format!(
            "`{name}` holds neither a model nor an adapter (no `{}`, no `{}`), so --force does not replace it; choose another \
             folder, or empty this one",
            WRITTEN[0], WRITTEN[1]
        )
        .into());
    }
    for entry in fs::read_dir(folder).map_err(on(folder))? {
        let entry = entry.map_err(on(folder))?;
        if !belongs(&entry.path()) {
            return Err(format!(
                "`{name}` holds `{}` beside a model or an adapter, so --force does not replace it; choose another folder, or \
                 empty this one",
                entry.file_name().display()
            )
            .into());
        }
    }
    let here = std::env::current_dir().and_then(fs::canonicalize);
    if let (Ok(here), Ok(whole)) = (here, folder.canonicalize())
        && here.starts_with(&whole)
    {
        return Err(format!("`{name}` is, or holds, the folder that this runs in; choose another").into());
    }
    Ok(())
}

/// Refuses an output folder that is, or holds, one of the folders that are read: replacing it would delete them.
pub(crate) fn refuse_inputs(output: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(whole) = output.canonicalize() else { return Ok(()) };
    let folder = output.display();
    for input in inputs {
        match input.canonicalize() {
            Ok(read) if read == whole => {
                return Err(
                    format!("the output folder `{folder}` is one that is read; choose another").into()
                );
            }
            Ok(read) if read.starts_with(&whole) => {
                let input = input.display();
                return Err(format!(
                    "the output folder `{folder}` holds `{input}`, which is read; choose another"
                )
                .into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses, before anything is computed, to write a file that is read, that lies in a folder that is read, or that cannot be
/// written; one that is there is replaced only if `force` is set.
pub(crate) fn refuse_to_write_over(file: &Path, read: &[&Path], flag: &str, force: bool) -> Result<()> {
    let name = file.display();
    let folder = folder_of(file);
    if !folder.is_dir() {
        return Err(
            format!("`{name}` cannot be written: the folder `{}` does not exist", folder.display()).into()
        );
    }
    if file.is_dir() {
        return Err(format!("`{name}` is a folder; name a file for {flag}").into());
    }
    let there = resolved(file);
    if read.iter().any(|read| there.starts_with(resolved(read))) {
        return Err(
            format!("`{name}` is read, or lies in a folder that is; choose another for {flag}").into()
        );
    }
    if file.exists() && !force {
        return Err(
            format!("`{name}` is there already; choose another file, or replace it with --force").into()
        );
    }
    // A full disk is another matter; what can be known of writing is known now.
    let trial = beside(file, &format!(".{}", std::process::id()));
    Ok(fs::write(&trial, "").and_then(|()| fs::remove_file(&trial)).map_err(on(file))?)
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A path without links, also of a file that is not there yet.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(whole) = path.canonicalize() {
        return whole;
    }
    let folder = folder_of(path);
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    path.file_name().map_or_else(|| folder.clone(), |name| folder.join(name))
}

/// Writes a file under a temporary name beside it, which is then renamed.
pub(crate) fn write_file(path: &Path, contents: &str) -> Result<()> {
    let stage = beside(path, ".incomplete");
    let written = fs::write(&stage, contents)
        .and_then(|()| File::open(&stage)?.sync_all())
        .and_then(|()| fs::rename(&stage, path));
    written.map_err(|problem| {
        let _ = fs::remove_file(&stage);
        on(path)(problem).into()
    })
}

/// `.NAME.suffix` in the same folder, so that renaming stays on one file system.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    // A path such as `runs/new/..` has no name of its own.
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = whole.file_name().unwrap_or(OsStr::new("output")).display().to_string();
    whole.with_file_name(format!(".{name}{suffix}"))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => Err(on(folder)(problem).into()),
        _ => Ok(()),
    }
}

fn put_on_disk(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

fn on(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
