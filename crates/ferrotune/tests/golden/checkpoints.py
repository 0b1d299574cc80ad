"""The tiny random-weight checkpoints under models/, and the configurations that share their weights."""

import json
import shutil

import torch
import transformers
from transformers import LlamaConfig, MistralConfig, MixtralConfig

from deterministic import HERE, VOCAB, normal, write_json

MODELS = HERE / "models"

# A base of neither 10,000 nor 1,000,000, so that a default taken silently shows.
THETA = 20_000.0
MIXTRAL_THETA = 30_000.0

SMALL = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=128, rms_norm_eps=1e-5,
             bos_token_id=1, eos_token_id=2, pad_token_id=None)
WIDE = SMALL | dict(hidden_size=64, intermediate_size=112, head_dim=16)


def plain(theta):
    return {"rope_type": "default", "rope_theta": theta}


def randomise(model, name):
    """Weights large enough that logits, attention and routing are far from uniform; norms around one; biases not zero."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            draw = normal(f"{name}/{key}", parameter.shape, 1.0)
            if "norm" in key:
                parameter.copy_(1.0 + 0.2 * draw)
            elif key.endswith(".bias"):
                parameter.copy_(0.3 * draw)
            elif "embed_tokens" in key:
                parameter.copy_(draw * (0.5 if model.config.tie_word_embeddings else 1.0))
            elif "mlp.gate.weight" in key:
                parameter.copy_(draw * 2.0 / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(draw * 1.2 / parameter.shape[-1] ** 0.5)


def save(model, name, **options):
    folder = MODELS / name
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder, **options)
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    return folder


def build(name, config, dtype=torch.float32, weights=None, **options):
    kind = {"llama": transformers.LlamaForCausalLM, "mistral": transformers.MistralForCausalLM,
            "mixtral": transformers.MixtralForCausalLM}[config.model_type]
    model = kind(config)
    randomise(model, weights or name)
    save(model.to(dtype), name, **options)


def variant(folder, name, change):
    """Another config.json over the weights of `folder`; `change` edits the parsed JSON in place."""
    config = json.loads((MODELS / folder / "config.json").read_text())
    change(config)
    write_json(MODELS / folder / "configs" / f"{name}.json", config)


def version_4_spelling(theta, scaling=None):
    """`rope_theta`, `rope_scaling`, `torch_dtype` as transformers 4 wrote them, instead of `rope_parameters`, `dtype`."""
    def change(config):
        config.pop("rope_parameters")
        config["torch_dtype"] = config.pop("dtype")
        config["rope_theta"] = theta
        config["rope_scaling"] = scaling
        config["transformers_version"] = "4.41.2"
        del config["head_dim"]  # LLaMA 2's files have none; hidden_size / num_attention_heads counts
    return change


def version_5_spelling(theta, scaling):
    def change(config):
        config["rope_parameters"] = {"rope_theta": theta, **scaling}
    return change


LINEAR = {"rope_type": "linear", "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SHORT_POSITIONS = 16  # fewer than the longest row, so that the dynamic base really grows


def also(change, **values):
    def both(config):
        change(config)
        config.update(values)
    return both


def write_all():
    build("llama-gqa", LlamaConfig(**WIDE, tie_word_embeddings=False, rope_parameters=plain(THETA)))
    for name, change in {
        "transformers-4": version_4_spelling(THETA),
        "linear": version_5_spelling(THETA, LINEAR),
        "linear-transformers-4": version_4_spelling(THETA, {"type": "linear", "factor": 4.0}),
        "dynamic": also(version_5_spelling(THETA, DYNAMIC), max_position_embeddings=SHORT_POSITIONS),
        "dynamic-transformers-4": also(version_4_spelling(THETA, {"type": "dynamic", "factor": 2.0}),
                                       max_position_embeddings=SHORT_POSITIONS),
        "llama3": version_5_spelling(THETA, LLAMA3),
        "llama3-transformers-4": version_4_spelling(THETA, LLAMA3),
        "yarn": version_5_spelling(THETA, YARN),
        "yarn-transformers-4": version_4_spelling(THETA, YARN),
        "yarn-attention-factor": version_5_spelling(THETA, YARN | {"attention_factor": 1.3, "beta_fast": 8.0,
                                                                   "beta_slow": 0.5}),
        "yarn-mscale": version_5_spelling(THETA, YARN | {"mscale": 1.5, "mscale_all_dim": 0.7}),
        "yarn-untruncated": version_5_spelling(THETA, YARN | {"truncate": False, "beta_fast": 4.0}),
    }.items():
        variant("llama-gqa", name, change)

    build("llama-bias", LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                                    rope_parameters=plain(THETA)))
    build("llama-tied", LlamaConfig(**SMALL, tie_word_embeddings=True, rope_parameters=plain(THETA)))
    build("llama-head-dim", LlamaConfig(**SMALL | dict(head_dim=16), tie_word_embeddings=False,
                                        rope_parameters=plain(THETA)))
    small = LlamaConfig(**SMALL, tie_word_embeddings=False, rope_parameters=plain(THETA))
    build("llama-sharded", small, weights="llama-small", max_shard_size="32KB")
    build("llama-bf16", small, torch.bfloat16, weights="llama-small")
    build("llama-f16", small, torch.float16, weights="llama-small")
    build("mistral-window", MistralConfig(**SMALL, sliding_window=8, tie_word_embeddings=False,
                                          rope_parameters=plain(THETA)))
    variant("mistral-window", "no-window", lambda config: config.update(sliding_window=None))
    variant("mistral-window", "transformers-4", version_4_spelling(THETA))

    mixtral = MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
                            router_aux_loss_coef=0.02, tie_word_embeddings=False,
                            rope_parameters=plain(MIXTRAL_THETA))
    build("mixtral", mixtral)
    build("mixtral-fused", mixtral, weights="mixtral", save_original_format=False)
    variant("mixtral", "transformers-4", version_4_spelling(MIXTRAL_THETA))
    variant("mixtral", "window", lambda config: config.update(sliding_window=8))
    variant("mixtral", "default-theta", lambda config: config.pop("rope_parameters"))

    # Rows of 64 weights, so that blocks of 64 hold weights of one expert and one row.
    build("mixtral-wide", MixtralConfig(**SMALL | dict(hidden_size=64, intermediate_size=64, head_dim=16),
                                        num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
                                        tie_word_embeddings=False, rope_parameters=plain(MIXTRAL_THETA)))
