//! DoRA against its definition, written out with dense matrices.

use ferrotune_adapters::{BlockSize, Lora, LoraConfig, Nf4, Quantization, QuantizedTensor, TargetModules};
use ferrotune_nn::{
    Decay, Dense, Dims, GroupedSite, Part, Pass, ProjectionBuilder, Role, RowGroups, Site, Weights,
};
use ferrotune_torch::{AdamW, backward, flops, fused_adamw, with_grad};
use tch::{Device, Kind, Tensor};

use crate::{
    experts::{site, source},
    projections::{named, single},
    support::{Kept, LOGITS, Model, alone, largest, shake},
};

/// Two orders of summation in 64 bits.
const EXACT: f64 = 1e-12;

/// `g (W x' + s·BA x') + W x - W x'` with `g = m / ‖W + s·BA‖` and a constant norm: `x'` is `x` with elements dropped.
fn definition(x: &Tensor, dropped: &Tensor, w: &Tensor, [a, b, m]: [&Tensor; 3], scaling: f64) -> Tensor {
    let norm = (w + b.matmul(a) * scaling).square().sum_dim_intlist(-1, false, Kind::Double).sqrt().detach();
    let of_dropped = dropped.matmul(&w.tr());
    let added = dropped.matmul(&a.tr()).matmul(&b.tr()) * scaling;
    (m / norm) * (&of_dropped + added) - of_dropped + x.matmul(&w.tr())
}

/// The gradients of `Σ weights · value` with respect to `leaves`, and none left behind.
fn gradients(value: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
    let weights = Tensor::arange(value.numel() as i64, (Kind::Double, Device::Cpu)).sin().view_as(value);
    backward(&[(&(value * weights).sum(Kind::Double), None)]).unwrap();
    let gradients = leaves.iter().map(|leaf| leaf.grad().copy()).collect();
    leaves.iter().for_each(|leaf| leaf.shallow_clone().zero_grad());
    gradients
}

#[test]
fn outputs_and_gradients_equal_the_definition_also_under_dropout() {
    let _alone = alone();
    tch::manual_seed(31);
    for (dropout, use_rslora) in [(0.0, false), (0.0, true), (0.4, false)] {
        let config = LoraConfig {
            r: 3,
            lora_alpha: 5.0,
            lora_dropout: dropout,
            use_rslora,
            use_dora: true,
            ..LoraConfig::default()
        };
        let scaling = if use_rslora { 5.0 / 3f64.sqrt() } else { 5.0 / 3.0 };
        let (projection, adapter, w) = single(config, Dims::new(7, 5), Kind::Double, Kind::Double);
        let [a, b, m] = ["lora_A", "lora_B", "lora_magnitude_vector"].map(|name| named(&adapter, name));
        assert!(
            largest(m, &w.norm_scalaropt_dim(2, [1i64].as_slice(), false)) < EXACT,
            "it starts as the norm"
        );
        shake(&adapter, 32);
        let x = Tensor::randn([2, 4, 5], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let leaves = [a, b, m, &x];
        tch::manual_seed(33);
        let found = projection.forward(&x, &Pass::train()).unwrap();
        let found_gradients = gradients(&found, &leaves);
        tch::manual_seed(33);
        let dropped = if dropout > 0.0 { x.dropout(dropout, true) } else { x.shallow_clone() };
        let expected = definition(&x, &dropped, &w, [a, b, m], scaling);
        let expected_gradients = gradients(&expected, &leaves);
        assert!(largest(&found, &expected) < EXACT);
        for (found, expected) in found_gradients.iter().zip(&expected_gradients) {
            assert!(largest(found, expected) < EXACT);
        }
        let quiet = definition(&x, &x, &w, [a, b, m], scaling);
        assert!(largest(&projection.forward(&x, &Pass::eval()).unwrap(), &quiet) < EXACT);
    }
}

#[test]
fn magnitudes_are_spared_from_weight_decay_and_filed_as_peft_does() {
    let _alone = alone();
    let config = LoraConfig { use_dora: true, ..LoraConfig::default() };
    let (_, adapter) = Model::open("llama-gqa").fresh(config);
    let magnitudes: Vec<_> =
        adapter.parameters().iter().filter(|trained| trained.name.ends_with("magnitude_vector")).collect();
    assert_eq!(magnitudes.len(), 4);
    assert!(magnitudes.iter().all(|trained| trained.decay == Decay::Exempt));
    let key = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector";
    assert_eq!(adapter.weights().unwrap().tensors()[key].size(), [64]);
}

/// Experts 0 and 3 have a rank of their own at one part, and expert 2 has no rows.
#[test]
fn experts_equal_the_definition_row_by_row() {
    let _alone = alone();
    for dropout in [0.0, 0.4] {
        tch::manual_seed(34);
        let config = LoraConfig {
            r: 2,
            lora_alpha: 3.0,
            lora_dropout: dropout,
            use_dora: true,
            target_modules: TargetModules::parse(r".*\.experts\.([023]\.w1|[13]\.w3)"),
            ..LoraConfig::default()
        };
        let fixed = Kept::read(&source());
        let root = Weights::new(&fixed, Device::Cpu, Kind::Double).at("layers.0.moe.experts");
        let mut lora = Lora::new(config, Dense).unwrap().with_kind(Kind::Double);
        let group = lora.grouped(&site(), &root).unwrap();
        let adapter = lora.finish().unwrap();
        shake(&adapter, 35);
        let counts = [2i64, 3, 0, 1];
        let groups = RowGroups::from_counts(&Tensor::from_slice(&counts)).unwrap();
        let x = Tensor::randn([6, 5], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let mut leaves: Vec<&Tensor> = adapter.parameters().iter().map(|trained| &*trained.tensor).collect();
        leaves.push(&x);
        tch::manual_seed(36);
        let found = group.forward(&x, &groups, &Pass::train()).unwrap();
        let found_gradients = gradients(&found, &leaves);

        tch::manual_seed(36);
        let mut columns = Vec::new();
        for (part, adapted) in [("w1", vec![0, 2, 3]), ("w3", vec![1, 3])] {
            let dropped = if dropout > 0.0 { x.dropout(dropout, true) } else { x.shallow_clone() };
            let stacked = |leaf: &str| named(&adapter, &format!("experts.{part}.{leaf}")).shallow_clone();
            let [a, b, m] = ["lora_A", "lora_B", "lora_magnitude_vector"].map(stacked);
            let (mut rows, mut start) = (Vec::new(), 0);
            for (expert, &count) in (0..).zip(&counts) {
                let w = root.at(expert).at(part).tensor("weight", &[3, 5]).unwrap();
                let (x, dropped) = (x.narrow(0, start, count), dropped.narrow(0, start, count));
                rows.push(match adapted.iter().position(|&other| other == expert) {
                    None => x.matmul(&w.tr()),
                    Some(slot) => {
                        let [a, b, m] = [&a, &b, &m].map(|tensor| tensor.select(0, slot as i64));
                        definition(&x, &dropped, &w, [&a, &b, &m], 1.5)
                    }
                });
                start += count;
            }
            columns.push(Tensor::cat(&rows, 0));
        }
        let expected = Tensor::cat(&columns, 1);
        assert!(largest(&found, &expected) < EXACT);
        for (found, expected) in found_gradients.iter().zip(gradients(&expected, &leaves)) {
            assert!(largest(found, &expected) < EXACT);
        }
    }
}

/// Every way in which training changes a factor must bring a new norm: the optimizer's fused step, a copy in place as a
/// resumed run makes it, and one for a single factor.
#[test]
fn norms_follow_the_factors() {
    let _alone = alone();
    tch::manual_seed(37);
    let config = LoraConfig { r: 2, use_dora: true, ..LoraConfig::default() };
    let (projection, adapter, w) = single(config, Dims::new(6, 4), Kind::Double, Kind::Double);
    let [a, b, m] = ["lora_A", "lora_B", "lora_magnitude_vector"].map(|name| named(&adapter, name));
    let x = Tensor::randn([3, 4], (Kind::Double, Device::Cpu));
    let check = |what: &str| {
        let expected = definition(&x, &x, &w, [a, b, m], 4.0);
        let distance = largest(&projection.forward(&x, &Pass::train()).unwrap(), &expected);
        assert!(distance < EXACT, "{what}: {distance}");
    };
    check("at first");
    let adamw = AdamW { lr: 0.3, ..AdamW::default() };
    for (factor, gradient) in [(b, 0.7), (a, -0.4)] {
        let (gradient, zeros) = (factor.full_like(gradient).detach(), || factor.zeros_like());
        let steps = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        let params = [factor.shallow_clone()];
        fused_adamw(&params, &[gradient], &[zeros()], &[zeros()], &[steps], &adamw).unwrap();
        check("after an optimizer's step of one factor");
    }
    with_grad(false, || b.shallow_clone().copy_(&Tensor::randn(b.size(), (Kind::Double, Device::Cpu))));
    check("after a copy");
    shake(&adapter, 38);
    check("after a sum in place");
}

/// The promise of the module: what a new norm costs is a product of the base with as many columns as the rank, and small
/// matrices; and as long as the factors stay what they are it costs nothing.
#[test]
fn a_norm_costs_a_product_of_rank_width_once_per_change_of_the_factors() {
    let _alone = alone();
    let (out, width, rank, rows) = (96, 64, 4, 10);
    let config = LoraConfig { r: rank, use_dora: true, ..LoraConfig::default() };
    let (projection, adapter, _) = single(config, Dims::new(out, width), Kind::Float, Kind::Float);
    let x = Tensor::randn([rows, width], (Kind::Float, Device::Cpu));
    let pass = || flops::count(|| projection.forward(&x, &Pass::train()).unwrap()).unwrap().1;
    pass();
    let without = pass();
    assert_eq!(without, 2 * (rows * width * out + rows * rank * (width + out)) as u64, "the norm is known");
    shake(&adapter, 44);
    let (small, wide) = (2 * rank * rank * (width + out), 2 * rank * width * out);
    assert_eq!(pass() - without, (small + wide) as u64);
    assert_eq!(pass(), without);
}

/// Over four bits the norm, like everything else, is that of the weights which the codes stand for.
#[test]
fn over_a_quantized_base_it_is_that_of_the_dequantized_weights() {
    let _alone = alone();
    tch::manual_seed(40);
    let settings = Quantization { block_size: BlockSize::new(32).unwrap(), ..Quantization::default() };
    let weights: Vec<(String, Tensor)> = (0..3)
        .flat_map(|expert| ["w1", "w3"].map(|part| format!("layers.0.moe.experts.{expert}.{part}.weight")))
        .map(|name| (name, Tensor::randn([24, 64], (Kind::Float, Device::Cpu)) * 0.1))
        .collect();
    let decoded = Kept::new(weights.iter().map(|(name, weight)| {
        let quantized = QuantizedTensor::quantize(weight, &settings).unwrap();
        (name.clone(), quantized.dequantize(Kind::Float).unwrap())
    }));
    let original = Kept::new(weights);
    let config = LoraConfig {
        use_dora: true,
        lora_dropout: 0.2,
        target_modules: TargetModules::list(["w1", "w3"]),
        ..LoraConfig::default()
    };
    let part = |name| Part { name, out_features: 24 };
    let site = GroupedSite {
        experts: 3,
        in_features: 64,
        parts: vec![part("w1"), part("w3")],
        stacked_name: "mlp.experts.gate_up_proj",
    };
    let groups = RowGroups::from_counts(&Tensor::from_slice(&[30i64, 0, 10])).unwrap();
    let x = Tensor::randn([40, 64], (Kind::Float, Device::Cpu));
    let build = |source: &Kept, lora: &mut dyn ProjectionBuilder| {
        tch::manual_seed(41);
        let at = Weights::new(source, Device::Cpu, Kind::Float).at("layers.0.moe.experts");
        lora.grouped(&site, &at).unwrap()
    };
    let mut over_codes = Lora::new(config.clone(), Nf4::new(settings)).unwrap();
    let mut over_weights = Lora::new(config, Dense).unwrap();
    let experts = [build(&original, &mut over_codes), build(&decoded, &mut over_weights)];
    let adapters = [over_codes.finish().unwrap(), over_weights.finish().unwrap()];
    let [(found, found_gradients), (expected, gradients)] = [0, 1].map(|index: usize| {
        shake(&adapters[index], 42);
        tch::manual_seed(43);
        let output = experts[index].forward(&x, &groups, &Pass::train()).unwrap();
        backward(&[(&output.square().sum(Kind::Float), None)]).unwrap();
        (output, adapters[index].gradients().unwrap())
    });
    assert!(largest(&found, &expected) < LOGITS);
    assert_eq!(found_gradients.len(), 18);
    for (key, gradient) in &gradients {
        // The second expert has no rows.
        let idle = gradient.abs().max().double_value(&[]) == 0.0;
        assert_eq!(idle, key.contains("experts.1."), "{key}");
        assert!(idle || largest(&found_gradients[key], gradient) < LOGITS, "{key}");
    }
}

/// A row of zeros has the norm 0, and stays without influence instead of making everything NaN.
#[test]
fn a_row_of_zeros_gives_no_nan() {
    let _alone = alone();
    tch::manual_seed(39);
    let weight = Tensor::cat(
        &[
            Tensor::zeros([1, 3], (Kind::Float, Device::Cpu)),
            Tensor::randn([2, 3], (Kind::Float, Device::Cpu)),
        ],
        0,
    );
    let source = Kept::new([("layers.0.q_proj.weight".to_owned(), weight)]);
    let target_modules = TargetModules::list(["q_proj"]);
    let mut lora =
        Lora::new(LoraConfig { use_dora: true, target_modules, ..LoraConfig::default() }, Dense).unwrap();
    let at = Weights::new(&source, Device::Cpu, Kind::Float).at("layers.0.q_proj");
    let projection = lora.projection(&Site::new(Role::Attention, Dims::new(3, 3)), &at).unwrap();
    let adapter = lora.finish().unwrap();
    let output =
        projection.forward(&Tensor::ones([2, 3], (Kind::Float, Device::Cpu)), &Pass::train()).unwrap();
    backward(&[(&output.sum(Kind::Float), None)]).unwrap();
    let finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
    assert!(finite(&output));
    assert!(adapter.gradients().unwrap().values().all(finite));
}
