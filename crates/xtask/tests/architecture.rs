//! The map in `docs/architecture.md` against the manifests.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// What cargo knows of the workspace, without the network.
fn metadata() -> Metadata {
    let offline = vec!["--offline".into()];
    MetadataCommand::new().current_dir(root()).no_deps().other_options(offline).exec().unwrap()
}

/// The arrows between our library crates, as the manifests have them.
fn of_manifests() -> Arrows {
    let metadata = metadata();
    let ours = |name: &str| {
        name.starts_with("ferrotune") && name != "ferrotune-examples" && name != "ferrotune-benches"
    };
    metadata
        .packages
        .iter()
        .filter(|package| ours(&package.name))
        .map(|package| {
            let arrows = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind == DependencyKind::Normal && ours(&dependency.name))
                .map(|dependency| dependency.name.clone())
                .collect();
            (package.name.to_string(), arrows)
        })
        .collect()
}

/// The same as the table of the map has them: rows of crate, one line, dependencies, libtorch.
fn of_the_map() -> Arrows {
    let map = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut arrows = Arrows::new();
    for line in map.lines().filter(|line| line.starts_with("| `ferrotune")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        let listed = cells[3]
            .split(',')
            .map(|cell| cell.trim().trim_matches('`'))
            .filter(|cell| !cell.is_empty())
            .map(|short| format!("ferrotune-{short}"))
            .collect();
        arrows.insert(name, listed);
    }
    arrows
}

#[test]
fn the_map_lists_every_crate_and_every_arrow() {
    let (map, manifests) = (of_the_map(), of_manifests());
    assert!(map.len() > 5, "the table of docs/architecture.md was not found");
    assert_eq!(map, manifests, "docs/architecture.md and the manifests disagree");
}

#[test]
fn no_crate_depends_on_one_below_it_in_the_table() {
    let map = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let order: Vec<&str> = map
        .lines()
        .filter_map(|line| line.strip_prefix("| `ferrotune"))
        .map(|line| line.split('`').next().unwrap())
        .collect();
    for (name, arrows) in of_manifests() {
        let place = |name: &str| order.iter().position(|row| format!("ferrotune{row}") == *name).unwrap();
        for arrow in arrows {
            assert!(place(&arrow) < place(&name), "{name} depends on {arrow}, which stands below it");
        }
    }
}

#[test]
fn set_up_depends_on_no_other_crate_of_ours() {
    let metadata = metadata();
    let xtask = metadata.packages.iter().find(|package| package.name == "xtask").unwrap();
    assert!(xtask.dependencies.iter().all(|dependency| !dependency.name.starts_with("ferrotune")));
}

#[test]
fn every_dependency_is_argued_for() {
    let argued = std::fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let rows: BTreeSet<&str> = argued
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| line.split('|').nth(1).unwrap().split(',').map(|name| name.trim().trim_matches('`')))
        .collect();
    let metadata = metadata();
    let used: BTreeSet<&str> = metadata
        .packages
        .iter()
        .flat_map(|package| &package.dependencies)
        .map(|dependency| dependency.name.as_str())
        .filter(|name| !name.starts_with("ferrotune"))
        .collect();
    assert_eq!(rows, used, "docs/dependencies.md and the manifests disagree");
}

#[test]
fn the_sample_outside_of_the_workspace_has_its_profile() {
    let profile = |path: &str| {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        let start = text.find("[profile.dev]").unwrap();
        let end = text.find("[profile.release").unwrap_or(text.len());
        text[start..end].trim().to_owned()
    };
    // Another profile would compile libtorch's binding again, which is most of a build.
    assert_eq!(profile("crates/xtask/downstream/Cargo.toml"), profile("Cargo.toml"));
}
