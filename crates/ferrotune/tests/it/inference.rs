//! Logits, losses and generated text of every configuration and layout, against transformers.

use ferrotune::{
    Architecture, AutoCausalLm, LoadOptions, ScoredModel,
    core::{BoxError, Encoding, GenerationLimits, SpecialTokens, StopReason, Tokenize},
    mixtral::AuxiliaryLoss,
    nn::{
        CausalLm, Dense, Frozen, Pass, Tokens,
        generate::{Sampling, generate},
        loss::{Labelled, causal_lm_loss},
    },
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::golden::{self, Tensors, relative_to_largest};

/// Two attention kernels of torch differ by under 1e-6 on these models; this leaves room for another order of
/// summation and none for another formula.
const LOGITS: f64 = 2e-5;

/// A mean of thirty-odd terms in 32 bits.
const LOSS: f64 = 1e-5;

/// How much larger than transformers' own our error in bf16 may be.
const BF16: f64 = 1.1;

fn load(model: &str, config: &str, kind: Kind, auxiliary_loss: AuxiliaryLoss) -> Box<dyn CausalLm> {
    let (_guard, folder) = golden::model_folder(model, Some(config));
    let options = LoadOptions { auxiliary_loss, ..LoadOptions::new(Device::Cpu, kind) };
    AutoCausalLm::open(&folder).unwrap().load(&options, &mut Frozen::new(Dense)).unwrap()
}

fn logits(model: &dyn CausalLm, ids: &Tensor, lengths: &[i64]) -> Tensor {
    let hidden = model.hidden(&Tokens::padded(ids, lengths), None, &Pass::eval()).unwrap();
    model.logits(&hidden.states, &Pass::eval()).unwrap()
}

/// The rows of real positions, `[tokens, vocabulary]`.
fn real(logits: &Tensor, mask: &Tensor) -> Tensor {
    let places = mask.reshape([-1]).nonzero().squeeze_dim(1);
    logits.reshape([-1, logits.size()[2]]).index_select(0, &places)
}

fn lengths(mask: &Tensor) -> Vec<i64> {
    Vec::try_from(mask.sum_dim_intlist(1, false, Kind::Int64)).unwrap()
}

struct Case {
    name: String,
    facts: Value,
    tensors: Tensors,
}

impl Case {
    fn all() -> Vec<Self> {
        let Value::Object(cases) = golden::json("expected/inference.json") else { panic!("not a table") };
        let cases: Vec<_> = cases
            .into_iter()
            .map(|(name, facts)| {
                let tensors =
                    Tensors::open(&format!("expected/{}.safetensors", facts["tensors"].as_str().unwrap()));
                Self { name, facts, tensors }
            })
            .collect();
        assert_eq!(cases.len(), 27, "a golden case was lost or added");
        cases
    }

    fn text(&self, key: &str) -> &str {
        self.facts[key].as_str().unwrap()
    }

    fn load(&self, kind: Kind, auxiliary_loss: AuxiliaryLoss) -> Box<dyn CausalLm> {
        load(self.text("model"), self.text("config"), kind, auxiliary_loss)
    }
}

#[test]
fn logits_in_32_bits_equal_the_reference() {
    for case in Case::all() {
        let model = case.load(Kind::Float, AuxiliaryLoss::Off);
        let mask = case.tensors.get("attention_mask");
        let found = logits(model.as_ref(), &case.tensors.get("input_ids"), &lengths(&mask));
        let error = relative_to_largest(&real(&found, &mask), &real(&case.tensors.get("logits"), &mask));
        println!("{}: {error:.1e}", case.name);
        assert!(error < LOGITS, "{}: {error:e}", case.name);
    }
}

#[test]
fn logits_in_16_bits_err_no_more_than_the_reference() {
    for case in Case::all() {
        let model = case.load(Kind::BFloat16, AuxiliaryLoss::Off);
        let mask = case.tensors.get("attention_mask");
        let found = real(&logits(model.as_ref(), &case.tensors.get("input_ids"), &lengths(&mask)), &mask);
        assert_eq!(found.kind(), Kind::BFloat16);
        let difference =
            found.to_kind(Kind::Double) - real(&case.tensors.get("logits"), &mask).to_kind(Kind::Double);
        let rms = difference.square().mean(Kind::Double).sqrt().double_value(&[]);
        let largest = difference.abs().max().double_value(&[]);
        let of = |kernel: &str, what: &str| case.facts["bf16"][kernel][what].as_f64().unwrap();
        println!(
            "{}: rms {:.3}, largest {:.3} of the reference's",
            case.name,
            rms / of("sdpa", "rms"),
            largest / of("sdpa", "max")
        );
        assert!(rms <= BF16 * of("sdpa", "rms"), "{}: rms {rms} against {}", case.name, of("sdpa", "rms"));
        assert!(
            largest <= BF16 * of("sdpa", "max"),
            "{}: largest {largest} against {}",
            case.name,
            of("sdpa", "max")
        );
    }
}

#[test]
fn losses_equal_the_reference() {
    for case in Case::all() {
        let model = case.load(Kind::Float, AuxiliaryLoss::Concatenated);
        let mask = case.tensors.get("attention_mask");
        let lengths = lengths(&mask);
        let ids = case.tensors.get("input_ids");
        let supervised = case.tensors.get("labels").ne(-100);
        let batch = Labelled { tokens: Tokens::padded(&ids, &lengths), supervised: &supervised };
        let loss = causal_lm_loss(model.as_ref(), &batch, &Pass::eval()).unwrap();
        assert_eq!(loss.supervised_tokens, case.facts["supervised_tokens"].as_i64().unwrap());
        let mean = loss.negative_log_likelihood.double_value(&[]) / loss.supervised_tokens as f64;
        let check = |what: &str, found: f64, expected: &Value| {
            let expected = expected.as_f64().unwrap();
            assert!(
                (found / expected - 1.0).abs() < LOSS,
                "{} {what}: {found} against {expected}",
                case.name
            );
        };
        check("loss", mean, &case.facts["loss"]);
        let Some(auxiliary) = loss.auxiliary_loss else { continue };
        check("loss with balance", mean + auxiliary.double_value(&[]), &case.facts["loss_with_aux"]);
        let (_guard, folder) = golden::model_folder(case.text("model"), Some(case.text("config")));
        let open = AutoCausalLm::open(&folder).unwrap();
        let Architecture::Mixtral(config) = open.architecture() else { panic!("only Mixtral has a router") };
        let per_layer = case.load(Kind::Float, AuxiliaryLoss::PerLayer);
        let per_layer =
            causal_lm_loss(per_layer.as_ref(), &batch, &Pass::eval()).unwrap().auxiliary_loss.unwrap();
        let per_layer = per_layer.double_value(&[]) / config.router_aux_loss_coef;
        check("balance per layer", per_layer, &case.facts["aux_loss"]["per_layer_mean"]);
    }
}

#[test]
fn greedy_text_equals_the_reference_for_64_tokens() {
    let Value::Object(cases) = golden::json("expected/greedy.json") else { panic!("not a table") };
    assert_eq!(cases.len(), 2);
    for (model, expected) in cases {
        let ids = |key: &str| -> Vec<i64> { serde_json::from_value(expected[key].clone()).unwrap() };
        let lm = load(&model, "config.json", Kind::Float, AuxiliaryLoss::Off);
        let sampling = Sampling { max_new_tokens: 64, ..Sampling::default() };
        let continued = generate(lm.as_ref(), &[ids("prompt")], &sampling).unwrap();
        assert_eq!(continued[0].ids, ids("tokens"), "{model}");
    }
}

/// Ids written as numbers, with the ends that a case gives them.
struct Numbers(SpecialTokens);

impl Tokenize for Numbers {
    fn encode(&self, _: &str) -> Result<Encoding, BoxError> {
        Err("the ids are given".into())
    }

    fn encode_markup(&self, text: &str) -> Result<Encoding, BoxError> {
        self.encode(text)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, BoxError> {
        Ok(ids.iter().map(|id| format!("{id} ")).collect())
    }

    fn special(&self) -> &SpecialTokens {
        &self.0
    }

    fn vocabulary_size(&self) -> usize {
        96
    }

    fn fingerprint(&self) -> &str {
        "numbers"
    }
}

#[test]
fn an_answer_ends_at_each_of_the_ids_that_end_one() {
    let expected = &golden::json("expected/greedy.json")["llama-gqa"];
    let ids = |key: &str| -> Vec<u32> { serde_json::from_value(expected[key].clone()).unwrap() };
    let (prompt, tokens) = (ids("prompt"), ids("tokens"));
    let first = |id: u32| tokens.iter().position(|&token| token == id).unwrap();
    // The two ids that transformers' answer brings last, so that the other one does not end it before.
    let mut late: Vec<u32> = tokens.clone();
    late.sort_by_key(|&id| std::cmp::Reverse(first(id)));
    late.dedup();
    let lm = load("llama-gqa", "config.json", Kind::Float, AuxiliaryLoss::Off);
    let limits =
        GenerationLimits { max_new_tokens: 64, stop: Vec::new(), temperature: 0.0, top_p: 1.0, seed: 0 };
    let unused = (0..96).find(|id| !tokens.contains(id)).unwrap();
    for (eos, other_ends) in [(unused, vec![late[0]]), (late[0], vec![unused, late[1]]), (late[1], vec![])] {
        let end = other_ends.iter().chain([&eos]).filter(|id| tokens.contains(id)).map(|&id| first(id)).min();
        let tokenizer = Numbers(SpecialTokens { eos: Some(eos), other_ends, ..SpecialTokens::default() });
        let found = ScoredModel::new(lm.as_ref(), &tokenizer)
            .generate_ids(std::slice::from_ref(&prompt), &limits)
            .unwrap();
        assert_eq!((Some(found[0].tokens), found[0].stop), (end, StopReason::EndOfSequence));
        assert_eq!(found[0].text, tokenizer.decode(&tokens[..found[0].tokens]).unwrap());
    }
}
