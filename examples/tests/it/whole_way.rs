//! From data to an adapter, and from there to merged, quantized and grown models: what each program leaves is what the next one
//! reads.

use serde_json::Value;

use crate::{finetune::finetune, place::Place};

#[test]
fn good_input_goes_the_whole_way() {
    let place = Place::new();
    let summary = place.succeed(&finetune("--learning-rate 1e-2"));
    assert_eq!(summary["steps"], 2);
    for key in ["train_loss", "eval_loss", "tokens_per_second", "total_parameters", "peak_rss_bytes"] {
        assert!(summary[key].is_number(), "{key} in {summary}");
    }
    for file in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "trainer_state.json",
        "summary.json",
        "log.jsonl",
        "runs",
    ] {
        assert!(place.path("out").join(file).exists(), "{file}");
    }
    place.succeed("merge --model model --adapter out --output merged --device cpu");
    let base = place.succeed("score --model model --texts texts.jsonl --device cpu");
    let adapted = place.succeed("score --model model --adapter out --texts texts.jsonl --device cpu");
    let merged =
        place.succeed("score --model merged --texts texts.jsonl --device cpu --logits logits.safetensors");
    let loss = |scores: &Value| scores["loss"].as_f64().expect("a loss");
    /// Merging rounds once to 32 bits.
    const ROUNDING: f64 = 1e-5;
    assert!((loss(&adapted) - loss(&merged)).abs() < ROUNDING, "{adapted} {merged}");
    assert!(
        (loss(&adapted) - loss(&base)).abs() > 10.0 * ROUNDING,
        "two steps change the loss: {adapted} {base}"
    );
    assert_eq!(base["rows"][0]["id"], "first");
    let four = place.succeed("quantize --model model --output four --device cpu");
    assert!(four["bytes_after"].as_u64() < four["bytes_before"].as_u64(), "{four}");
    assert!((0.05..0.15).contains(&four["relative_error"].as_f64().expect("an error")), "{four}");
    let quantized = place.succeed("score --model four --texts texts.jsonl --device cpu");
    let line = "merge --model model --adapter out --quantized-base nf4 --output onto --device cpu";
    assert!(
        place.succeed(line)["base"].as_str().expect("words").contains("dequantize(quantize(weights)), NF4")
    );
    let onto = place.succeed("score --model onto --texts texts.jsonl --device cpu");
    let on_four = place.succeed("score --model four --adapter out --texts texts.jsonl --device cpu");
    assert!((loss(&onto) - loss(&on_four)).abs() < ROUNDING, "{onto} {on_four}");
    assert!((loss(&quantized) - loss(&base)).abs() > ROUNDING, "{quantized} {base}");
    place.succeed("generate --model merged --prompt add --max-new-tokens 5 --device cpu");
    place.succeed("upcycle --model model --experts 2 --top-k 1 --output grown --device cpu");
    let grown = place.succeed("score --model grown --texts texts.jsonl --device cpu");
    assert!((loss(&grown) - loss(&base)).abs() < ROUNDING, "{grown} {base}");
}
