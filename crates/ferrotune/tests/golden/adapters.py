"""What is trained: every LoRA configuration and every full run, as data."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    model: str
    config: dict | None = None  # LoraConfig arguments; None trains every weight
    shapes: tuple = (dict(),)  # one `batches.batch` per micro-batch of the accumulation window
    shares: str | None = None  # the case whose adapter folder this one starts from
    steps: int = 10
    aux: bool = False  # the loss holds router_aux_loss_coef times the auxiliary loss
    legacy: bool = False  # transformers 4's module names
    merge: bool = False
    idle_expert: bool = False  # wanted: an expert without a token
    every_expert: bool = True  # wanted: at step 1 every adapter tensor has a gradient
    keep: object = field(default=lambda key: True)  # which tensors of a full run are stored


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
SHORT = (dict(lengths=(3,), prompts=(1,)),)
UNEVEN = (dict(lengths=(24, 17), prompts=(6, 5)), dict(lengths=(9, 7), prompts=(6, 4)))


def flat(targets):
    return dict(r=2, lora_alpha=4, target_modules=[], target_parameters=targets)


PER_EXPERT = dict(r=3, lora_alpha=6, target_modules=["q_proj", "w1", "w2", "w3", "gate"])

ADAPTERS = {
    "llama-attention": Case("llama-gqa", dict(r=4, lora_alpha=8, target_modules=ATTENTION), merge=True),
    "llama-accumulation": Case("llama-gqa", dict(r=4, lora_alpha=8, target_modules=ATTENTION), shapes=UNEVEN,
                               shares="llama-attention"),
    "llama-all-linear": Case("llama-gqa", dict(r=3, lora_alpha=6, target_modules="all-linear")),
    "llama-regex": Case("llama-gqa", dict(r=4, lora_alpha=4, target_modules=r".*\.layers\.\d+\.(self_attn\.[qkv]|mlp\.up)_proj",
                                          exclude_modules=["layers.0.self_attn.k_proj"])),
    "llama-patterns": Case("llama-bias", dict(
        r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
        layers_to_transform=[1], rank_pattern={"q_proj": 2, "layers.1.mlp.down_proj": 6},
        alpha_pattern={"self_attn.v_proj": 3}, bias="lora_only", modules_to_save=["lm_head"]), merge=True),
    "llama-bias-all": Case("llama-bias", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], bias="all")),
    "llama-lora-bias": Case("llama-head-dim", dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "gate_proj"],
                                                   lora_bias=True)),
    "llama-lora-bias-mergeable": Case("llama-bias", dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"],
                                                         lora_bias=True), steps=1, merge=True),
    "llama-tied-head": Case("llama-tied", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"],
                                               modules_to_save=["lm_head"])),
    "llama-dora": Case("llama-bias", dict(
        r=4, lora_alpha=8, use_dora=True, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
        rank_pattern={"v_proj": 2}, alpha_pattern={"down_proj": 3}), merge=True),
    "llama-dora-rslora": Case("llama-head-dim", dict(r=3, lora_alpha=4, use_dora=True, use_rslora=True,
                                                     target_modules="all-linear")),
    "llama-pissa": Case("llama-gqa", dict(r=4, lora_alpha=6, init_lora_weights="pissa", target_modules=["q_proj", "v_proj"])),
    "llama-olora": Case("llama-gqa", dict(r=3, lora_alpha=6, init_lora_weights="olora", use_dora=True,
                                          target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 5})),
    "mixtral-attention": Case("mixtral", dict(r=4, lora_alpha=8, target_modules=ATTENTION)),
    "mixtral-attention-aux": Case("mixtral", dict(r=4, lora_alpha=8, target_modules=ATTENTION), aux=True,
                                  shares="mixtral-attention"),
    "mixtral-flat": Case("mixtral", flat(EXPERTS), merge=True),
    "mixtral-flat-gate-up": Case("mixtral", flat(EXPERTS[:1]), steps=1),
    "mixtral-flat-down": Case("mixtral", flat(EXPERTS[1:]), steps=1),
    "mixtral-flat-idle": Case("mixtral", flat(EXPERTS), steps=1, shares="mixtral-flat", shapes=SHORT,
                              idle_expert=True),
    "mixtral-per-expert": Case("mixtral", PER_EXPERT, legacy=True, merge=True),
    "mixtral-per-expert-dora": Case("mixtral", PER_EXPERT | dict(use_dora=True), legacy=True, merge=True),
    "mixtral-per-expert-idle": Case("mixtral", PER_EXPERT, legacy=True, steps=1, shares="mixtral-per-expert", shapes=SHORT,
                                    idle_expert=True, every_expert=False),
}


def small(key):
    return "norm" in key or "k_proj" in key or "v_proj" in key or "lm_head" in key


FULL = {
    "full-llama": Case("llama-gqa", keep=small),
    "full-tied": Case("llama-tied"),
    "full-mixtral": Case("mixtral", aux=True, keep=lambda key: small(key) or "mlp.gate" in key or "layers.1.mlp" in key),
}
