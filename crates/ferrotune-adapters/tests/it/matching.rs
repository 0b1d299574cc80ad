//! What is targeted, against PEFT's own matcher.

use std::collections::BTreeMap;

use ferrotune_adapters::{Adaptation, Lora, LoraConfig, TargetModules};
use ferrotune_nn::{
    Dense, Dims, GroupedSite, Part, ProjectionBuilder, Role, Site, WeightSpec, Weights, weights::Initialized,
};
use serde_json::{Map, Value};
use tch::{Device, Kind};

use crate::support::{Model, alone, json};

const WIDTH: i64 = 4;

/// Walks modules of the given paths as a model would and returns rank and scaling of those that were adapted.
fn walk(config: LoraConfig, paths: &[String]) -> BTreeMap<String, (i64, f64)> {
    let spec = |path: &String| WeightSpec {
        name: format!("{path}.weight"),
        role: Role::Attention,
        shape: vec![WIDTH, WIDTH],
        alias: None,
    };
    let source = Initialized::new(&paths.iter().map(spec).collect::<Vec<_>>(), 0.02);
    let root = Weights::new(&source, Device::Cpu, Kind::Float);
    let mut lora = Lora::new(config, Dense).unwrap();
    let mut groups: Vec<&str> = Vec::new();
    for path in paths {
        match path.split_once(".experts.") {
            Some((block, _)) if groups.contains(&block) => {}
            Some((block, _)) => {
                groups.push(block);
                let within = format!("{block}.experts.0.");
                let experts =
                    paths.iter().filter(|path| path.starts_with(block) && path.ends_with("w1")).count();
                assert!(paths.iter().any(|path| path.starts_with(&within)));
                for (names, stacked_name) in
                    [(&["w1", "w3"][..], "mlp.experts.gate_up_proj"), (&["w2"][..], "mlp.experts.down_proj")]
                {
                    let parts = names.iter().map(|&name| Part { name, out_features: WIDTH }).collect();
                    let site =
                        GroupedSite { experts: experts as i64, in_features: WIDTH, parts, stacked_name };
                    lora.grouped(&site, &root.at(block).at("experts")).unwrap();
                }
            }
            None => {
                let role = match path.rsplit('.').next().unwrap() {
                    "lm_head" => Role::Head,
                    "gate" => Role::Router,
                    _ => Role::Attention,
                };
                lora.projection(&Site::new(role, Dims::new(WIDTH, WIDTH)), &root.at(path)).unwrap();
            }
        }
    }
    let adapted = lora.sites().iter().filter_map(|site| match site.adaptation {
        Adaptation::LowRank { rank, scaling } => Some((site.path.clone(), (rank, scaling))),
        _ => None,
    });
    adapted.collect()
}

#[test]
fn every_rule_matches_what_peft_matches() {
    let _alone = alone();
    let table = json(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/matching.json"));
    let cases = table["cases"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let paths: Vec<String> =
            serde_json::from_value(table["models"][case["model"].as_str().unwrap()].clone()).unwrap();
        let fields: Map<String, Value> = serde_json::from_value(case["config"].clone()).unwrap();
        let config = LoraConfig::from_fields(fields, "the table").unwrap();
        let expected: BTreeMap<String, (i64, f64)> = case["expected"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, facts)| {
                (path.clone(), (facts["rank"].as_i64().unwrap(), facts["scaling"].as_f64().unwrap()))
            })
            .collect();
        assert_eq!(walk(config, &paths), expected, "{}", case["config"]);
    }
}

/// The last segments of what a word targets in a golden model, and the names in the configuration to save.
fn targets(model: &str, target_modules: TargetModules) -> (Vec<String>, TargetModules) {
    let (_, adapter) = Model::open(model).fresh(LoraConfig { target_modules, ..LoraConfig::default() });
    let leaf = |path: &str| path.rsplit('.').next().unwrap().to_owned();
    let mut leaves: Vec<String> = adapter.sites().iter().map(|site| leaf(&site.path)).collect();
    leaves.sort();
    leaves.dedup();
    (leaves, adapter.config().target_modules.clone())
}

#[test]
fn all_linear_takes_experts_and_never_the_router_or_the_head() {
    let _alone = alone();
    let attention = ["k_proj", "o_proj", "q_proj", "v_proj"];
    let dense = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];
    let sparse = ["k_proj", "o_proj", "q_proj", "v_proj", "w1", "w2", "w3"];
    for (model, word, expected) in [
        ("llama-gqa", "all-linear", &dense[..]),
        ("llama-gqa", "peft-all-linear", &dense[..]),
        ("mixtral", "all-linear", &sparse[..]),
        ("mixtral", "peft-all-linear", &attention[..]),
    ] {
        let (leaves, saved) = targets(model, TargetModules::parse(word));
        assert_eq!(leaves, expected, "{model} {word}");
        // PEFT does not know the second word, and means something else by the first.
        assert_eq!(saved, TargetModules::list(expected.iter().copied()), "{model} {word}");
    }
}

#[test]
fn the_router_is_targeted_only_by_name() {
    let _alone = alone();
    let (leaves, _) = targets("mixtral", TargetModules::list(["gate"]));
    assert_eq!(leaves, ["gate"]);
    let (leaves, _) = targets("llama-gqa", TargetModules::list(["gate_proj"]));
    assert_eq!(leaves, ["gate_proj"]);
}
