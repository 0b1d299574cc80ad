//! What a configuration would change, from a list of weights alone.

use std::collections::BTreeSet;

use ferrotune_nn::{Role, WeightSpec};

use crate::{
    Adaptation, Bias, LoraConfig, Result,
    target::{Decision, Rules, Scale, alias},
};

/// A weight that an adapter would change, and how much would train for it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedSite {
    /// The weight's name in the checkpoint.
    pub weight: String,
    /// What it is for.
    pub role: Role,
    /// Its shape.
    pub shape: Vec<i64>,
    /// What would be done to it.
    pub adaptation: Adaptation,
    /// Numbers that would train for it. A factor shared with another weight is counted once, at the first of them.
    pub parameters: u64,
}

impl LoraConfig {
    /// What this configuration would change in a model with these weights. No model is built and nothing is read.
    ///
    /// # Errors
    /// [`Error::NoMatch`](crate::Error::NoMatch) if something that was asked for matches nothing,
    /// [`Error::Pattern`](crate::Error::Pattern), and what [`check`](Self::check) refuses.
    pub fn planned(&self, specs: &[WeightSpec]) -> Result<Vec<PlannedSite>> {
        self.check("the LoRA configuration")?;
        let mut rules = Rules::new(self)?;
        let biases: BTreeSet<&str> =
            specs.iter().filter_map(|spec| spec.name.strip_suffix(".bias")).collect();
        let mut sites = Vec::new();
        for spec in specs {
            let site = |adaptation, parameters| PlannedSite {
                weight: spec.name.clone(),
                role: spec.role,
                shape: spec.shape.clone(),
                adaptation,
                parameters,
            };
            let Some(module) = spec.name.strip_suffix(".weight") else { continue };
            let decision = rules.module(spec.role, module)?;
            let weights = spec.shape.iter().product::<i64>() as u64;
            if decision == Decision::Saved {
                sites.push(site(Adaptation::Saved, weights));
                continue;
            }
            let (scale, shares_a) = match decision {
                Decision::Adapted(scale) => (Some(scale), false),
                _ => by_parameter(&mut rules, spec, module)?,
            };
            let (out_features, has_bias) = (spec.shape[0] as u64, biases.contains(module));
            let trains_bias =
                has_bias && (self.bias == Bias::All || self.bias == Bias::LoraOnly && scale.is_some());
            if trains_bias {
                sites.push(site(Adaptation::Bias, out_features));
            }
            if let Some(Scale { rank, scaling }) = scale {
                let in_features = if shares_a { 0 } else { spec.shape[1] as u64 };
                // A bias of its own, or DoRA's magnitudes: a number for each row.
                let by_row = if self.lora_bias || self.use_dora { out_features } else { 0 };
                let parameters = rank as u64 * (in_features + out_features) + by_row;
                sites.push(site(Adaptation::LowRank { rank, scaling }, parameters));
            }
        }
        rules.finish(false)?;
        Ok(sites)
    }
}

/// What `target_parameters` add to a weight, and whether it shares its first factor with a part that came before.
fn by_parameter(rules: &mut Rules, spec: &WeightSpec, module: &str) -> Result<(Option<Scale>, bool)> {
    if let Some(slice) = spec.alias.as_ref().and_then(|alias| Some((&alias.name, alias.slice.as_ref()?))) {
        let (name, (_, rows)) = slice;
        return Ok((rules.parameter(name)?, rows.start > 0));
    }
    if matches!(spec.role, Role::Embedding | Role::Norm) {
        return Ok((None, false));
    }
    let mut scale = None;
    for path in alias(spec.role, module).iter().map(String::as_str).chain([module]) {
        scale = scale.or(rules.parameter(&format!("{path}.weight"))?);
    }
    Ok((scale, false))
}
