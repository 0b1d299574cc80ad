"""Which modules PEFT's own matcher takes, and with which rank and alpha: `matching.json`.

Needs peft 0.21.2 and transformers 5.23.0. The module names are those of released LLaMA and Mixtral checkpoints.
"""

import json
from pathlib import Path

import peft
import transformers
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

ATTENTION = [f"self_attn.{name}_proj" for name in "qkvo"]


def paths(per_layer):
    layers = [f"model.layers.{layer}.{name}" for layer in (0, 1, 10) for name in per_layer]
    return layers + ["lm_head"]


MODELS = {
    "llama": paths(ATTENTION + ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    "mixtral": paths(ATTENTION + ["block_sparse_moe.gate"]
                     + [f"block_sparse_moe.experts.{e}.w{n}" for e in range(3) for n in (1, 2, 3)]),
}

CASES = [
    ("llama", dict(target_modules=["q_proj", "v_proj"])),
    ("llama", dict(target_modules=["proj"])),  # not a whole segment
    ("llama", dict(target_modules=["_proj", "q_proj"])),
    ("llama", dict(target_modules=["self_attn.q_proj", "mlp.up_proj"])),
    ("llama", dict(target_modules=["attn.q_proj", "o_proj"])),
    ("llama", dict(target_modules=["model.layers.1.self_attn.q_proj"])),
    ("llama", dict(target_modules=["layers.1.self_attn.q_proj"])),  # layer 1, not 11
    ("llama", dict(target_modules=["lm_head", "k_proj"])),
    ("llama", dict(target_modules=r".*\.layers\.\d\.self_attn\.(q|v)_proj")),
    ("llama", dict(target_modules=r"model\.layers\.1\..*_proj")),
    ("llama", dict(target_modules=r".*(?<!gate)_proj")),  # a look-behind
    ("llama", dict(target_modules=r"q_proj|.*\.v_proj")),  # an alternative does not escape the anchors
    ("llama", dict(target_modules=["q_proj", "v_proj"], exclude_modules=["layers.0.self_attn.q_proj"])),
    ("llama", dict(target_modules=["q_proj", "v_proj"], exclude_modules=r".*\.1\..*")),
    ("llama", dict(target_modules=["q_proj", "v_proj"], exclude_modules=["1.self_attn.q_proj"])),
    ("llama", dict(target_modules=["q_proj", "v_proj"], layers_to_transform=[1])),
    ("llama", dict(target_modules=["q_proj", "v_proj"], layers_to_transform=10)),
    ("llama", dict(target_modules=["q_proj", "model.layers.0.self_attn.v_proj"], layers_to_transform=[1])),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[0, 10], layers_pattern="layers")),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern=["h", "layers"])),
    ("llama", dict(target_modules=["q_proj", "down_proj"], layers_to_transform=[0], layers_pattern="h|layers")),
    ("llama", dict(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"])),
    ("llama", dict(target_modules=["q_proj", "up_proj", "o_proj"], modules_to_save=["mlp"])),
    ("llama", dict(target_modules=["q_proj", "v_proj", "o_proj"], rank_pattern={"q_proj": 3, "layers.1.self_attn.v_proj": 5},
                   alpha_pattern={"self_attn.o_proj": 7})),
    ("llama", dict(target_modules=["q_proj", "v_proj"], rank_pattern={"proj": 3, r"[qk]_proj": 4, r"model\.layers\.1.*v_proj": 2})),
    ("llama", dict(target_modules=["q_proj", "v_proj"], rank_pattern={r"layers\.(\d)\.self_attn\.q_proj": 6}, use_rslora=True)),
    ("llama", dict(target_modules=["q_proj"], rank_pattern={r"^model.layers.0.self_attn.q_proj": 6})),
    ("mixtral", dict(target_modules=["w1", "w3"])),
    ("mixtral", dict(target_modules=["gate", "q_proj"])),
    ("mixtral", dict(target_modules=["w1", "q_proj"], layers_to_transform=[1])),  # expert 1 of layer 0 is not layer 1
    ("mixtral", dict(target_modules=["w2"], layers_to_transform=[2], layers_pattern="experts")),
    ("mixtral", dict(target_modules=["1.w2", "experts.2.w1"])),
    ("mixtral", dict(target_modules=r".*\.experts\.[02]\.w[13]")),
    ("mixtral", dict(target_modules=["w1", "w2", "w3"], exclude_modules=["experts.1.w2"], rank_pattern={r"experts.2.w\d": 2})),
]


def describe(model, arguments):
    config = LoraConfig(r=8, lora_alpha=16, **arguments)
    expected = {}
    for path in MODELS[model]:
        if check_target_module_exists(config, path):
            rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), path), config.r)
            alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), path), config.lora_alpha)
            expected[path] = {"rank": rank, "scaling": alpha / rank**0.5 if config.use_rslora else alpha / rank}
    return {"model": model, "config": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, **arguments}, "expected": expected}


if __name__ == "__main__":
    table = {
        "versions": {"peft": peft.__version__, "transformers": transformers.__version__},
        "models": MODELS,
        "cases": [describe(model, arguments) for model, arguments in CASES],
    }
    (Path(__file__).parent / "matching.json").write_text(json.dumps(table, indent=1) + "\n")
