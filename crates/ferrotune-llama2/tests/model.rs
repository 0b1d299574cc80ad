//! What a configuration means, and that reading in pieces is reading.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not there")]

use std::sync::Mutex;

use ferrotune_llama2::{Config, Llama2};
use ferrotune_nn::{
    CausalLm as _, Dense, Frozen, Pass, Tokens,
    config::ConfigFile,
    generate::{Prompt, Sampling, generate, generate_until},
    weights::Initialized,
};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// Attention over other shapes sums in another order, in single precision.
const ORDER: f64 = 1e-5;

fn fields(changes: Value) -> ConfigFile {
    let mut fields = json!({
        "model_type": "mistral", "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "hidden_act": "silu",
    });
    fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    ConfigFile::from_fields("the test", fields.as_object().unwrap().clone())
}

fn refused(changes: Value) -> String {
    Config::read(&fields(changes)).unwrap_err().to_string()
}

fn model(window: Option<i64>) -> Llama2 {
    let config = Config::read(&fields(json!({ "sliding_window": window }))).unwrap();
    // Tests run side by side, and the generator is the process's.
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _alone = GENERATOR.lock().unwrap();
    tch::manual_seed(3);
    // Large weights, so that attention is far from uniform.
    let source = Initialized::new(&config.weights(), 0.4);
    Llama2::load(config, &source, Device::Cpu, Kind::Float, &mut Frozen::new(Dense)).unwrap()
}

fn ids(rows: i64, count: i64) -> Tensor {
    (Tensor::arange(rows * count, (Kind::Int64, Device::Cpu)) * 7 + 3).remainder(23).view([rows, count])
}

#[test]
fn a_cache_filled_in_pieces_gives_what_one_pass_gives() {
    for window in [None, Some(1), Some(3), Some(5), Some(12), Some(40)] {
        let model = model(window);
        let ids = ids(2, 12);
        let whole = model.hidden(&Tokens::full(&ids), None, &Pass::eval()).unwrap().states;
        for pieces in [&[12][..], &[1, 11], &[5, 4, 1, 2], &[1; 12]] {
            let mut cache = model.new_cache(2, 12).unwrap();
            let mut start = 0;
            for &count in pieces {
                let piece = ids.narrow(1, start, count);
                let states =
                    model.hidden(&Tokens::full(&piece), Some(&mut cache), &Pass::eval()).unwrap().states;
                let error = (states - whole.narrow(1, start, count)).abs().max().double_value(&[]);
                assert!(error < ORDER, "window {window:?}, pieces {pieces:?}, at {start}: {error:e}");
                start += count;
            }
        }
    }
}

#[test]
fn the_window_changes_what_is_seen() {
    let seen = |window| model(window).hidden(&Tokens::full(&ids(1, 8)), None, &Pass::eval()).unwrap().states;
    let difference = (seen(None) - seen(Some(3))).abs().max_dim(2, false).0.squeeze_dim(0); // [t]
    let difference = Vec::<f32>::try_from(difference).unwrap();
    assert!(difference[..3].iter().all(|&d| f64::from(d) < ORDER), "{difference:?}");
    assert!(difference[3..].iter().all(|&d| f64::from(d) > 100.0 * ORDER), "{difference:?}");
}

#[test]
fn rows_generate_the_same_alone_and_together_also_after_one_has_ended() {
    let model = model(Some(4));
    let prompts: Vec<Vec<i64>> = vec![vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]];
    let free = Sampling { max_new_tokens: 20, ..Sampling::default() };
    // The second id that the first row generates ends it.
    let end = generate(&model, &prompts[..1], &free).unwrap()[0].ids[1];
    let sampling = Sampling { eos: vec![end], ..free };
    let together = generate(&model, &prompts, &sampling).unwrap();
    for (prompt, row) in prompts.iter().zip(&together) {
        assert_eq!(&generate(&model, std::slice::from_ref(prompt), &sampling).unwrap()[0], row);
    }
    assert!(together[0].ended && together[0].ids.len() <= 1);
    assert!(together.iter().any(|row| row.ids.len() > 1), "nothing went on after the first row had ended");
}

#[test]
fn rows_draw_the_same_alone_and_together_whatever_else_the_process_draws() {
    let model = model(None);
    let prompts: Vec<Prompt> = (0..4).map(|row| Prompt { ids: vec![1, 2, 3], stream: 7 + row }).collect();
    let sampling = Sampling { temperature: 1.5, max_new_tokens: 20, seed: 5, ..Sampling::default() };
    let draw = |prompts: &[Prompt]| generate_until(&model, prompts, &sampling, &mut |_| false).unwrap();
    let together = draw(&prompts);
    assert!(together.iter().enumerate().all(|(row, one)| !together[..row].contains(one)), "{together:?}");
    for (prompt, row) in prompts.iter().zip(&together) {
        let _ = Tensor::rand([3], (Kind::Float, Device::Cpu));
        assert_eq!(&draw(std::slice::from_ref(prompt))[0], row);
    }
}

#[test]
fn a_mistral_file_that_is_silent_about_its_window_has_the_familys() {
    let window = |changes| Config::read(&fields(changes)).unwrap().sliding_window;
    assert_eq!(window(json!({})), Some(4096)); // transformers' MistralConfig
    assert_eq!(window(json!({ "sliding_window": null })), None);
    assert_eq!(window(json!({ "sliding_window": 7 })), Some(7));
    assert_eq!(window(json!({ "model_type": "llama" })), None);
}

#[test]
fn the_base_of_the_wavelengths_is_read_wherever_it_stands() {
    let theta = |changes| Config::read(&fields(changes)).unwrap().rope.theta;
    assert_eq!(theta(json!({})), 1e4); // the family's
    assert_eq!(theta(json!({ "rope_theta": 5e5 })), 5e5);
    let table = json!({ "rope_type": "linear", "factor": 2.0, "rope_theta": 5e5 });
    assert_eq!(theta(json!({ "rope_parameters": table })), 5e5);
    // transformers 5 takes this table for `rope_parameters`.
    assert_eq!(theta(json!({ "rope_scaling": table })), 5e5);
    assert_eq!(theta(json!({ "rope_scaling": table, "rope_parameters": table, "rope_theta": 5e5 })), 5e5);
}

#[test]
fn senseless_fields_are_named() {
    for (changes, expected) in [
        (json!({ "mlp_bias": true }), "field `mlp_bias`"),
        (json!({ "attention_bias": true }), "field `attention_bias`"),
        (
            json!({ "num_attention_heads": 4_611_686_018_427_387_904_i64, "head_dim": 4 }),
            "field `num_attention_heads`",
        ),
        (json!({ "num_key_value_heads": 0 }), "field `num_key_value_heads`"),
        (json!({ "num_key_value_heads": 3 }), "a divisor of num_attention_heads, 4"),
        (json!({ "head_dim": -2 }), "field `head_dim`"),
        (json!({ "head_dim": 3 }), "an even number"),
        (json!({ "vocab_size": true }), "field `vocab_size`"),
        (json!({ "model_type": "llama", "sliding_window": 5 }), "absent or null"),
        (json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e4 } } }), "field `full_attention`"),
        (
            json!({ "rope_scaling": { "type": "yarn", "factor": 2.0, "original_max_position_embeddings": -8 } }),
            "a number above 0",
        ),
        (json!({ "rope_scaling": { "type": "yarn", "factor": 2.0, "beta_fast": 0 } }), "field `beta_fast`"),
        (
            json!({ "rope_scaling": { "type": "yarn", "factor": 2.0, "attention_factor": 0.0 } }),
            "field `attention_factor`",
        ),
        (
            json!({
                "rope_scaling": { "type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0 }
            }),
            "above low_freq_factor, 4",
        ),
        (
            json!({ "rope_theta": 1e4, "rope_scaling": { "type": "linear", "factor": 2.0, "rope_theta": 5e5 } }),
            "`rope_scaling.rope_theta` and `rope_theta` and they disagree (500000.0 against 10000.0)",
        ),
        (
            json!({
                "original_max_position_embeddings": 16,
                "rope_scaling": { "type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32 },
            }),
            "they disagree",
        ),
    ] {
        let message = refused(changes.clone());
        assert!(message.contains(expected), "{changes}: {message}");
    }
}
