"""Logits, losses, router logits and greedy text of the checkpoints, in f32 and bf16: expected/*.safetensors and inference.json."""

import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from batches import batch, supervised_tokens
from checkpoints import MODELS
from deterministic import HERE, generator, write_json, write_tensors

# Case -> (folder under models/, file under its configs/ or None for config.json).
CASES = {
    "llama-gqa": ("llama-gqa", None),
    **{f"llama-gqa.{name}": ("llama-gqa", name) for name in (
        "transformers-4", "linear", "linear-transformers-4", "dynamic", "dynamic-transformers-4", "llama3",
        "llama3-transformers-4", "yarn", "yarn-transformers-4", "yarn-attention-factor", "yarn-mscale",
        "yarn-untruncated")},
    **{name: (name, None) for name in (
        "llama-bias", "llama-tied", "llama-head-dim", "llama-sharded", "llama-bf16", "llama-f16", "mistral-window")},
    "mistral-window.no-window": ("mistral-window", "no-window"),
    "mistral-window.transformers-4": ("mistral-window", "transformers-4"),
    "mixtral": ("mixtral", None),
    "mixtral-fused": ("mixtral-fused", None),
    "mixtral.transformers-4": ("mixtral", "transformers-4"),
    "mixtral.window": ("mixtral", "window"),
    "mixtral.default-theta": ("mixtral", "default-theta"),
}
# Same numbers as another case, checked here bit for bit and therefore not stored twice.
SAME_AS = {
    "llama-gqa.transformers-4": "llama-gqa",
    "llama-gqa.linear-transformers-4": "llama-gqa.linear",
    "llama-gqa.dynamic-transformers-4": "llama-gqa.dynamic",
    "llama-gqa.llama3-transformers-4": "llama-gqa.llama3",
    "llama-gqa.yarn-transformers-4": "llama-gqa.yarn",
    "mistral-window.transformers-4": "mistral-window",
    "mixtral-fused": "mixtral",
    "mixtral.transformers-4": "mixtral",
}
# A routing decision closer than this could be turned by rounding, and one turned token would drown the comparison.
SMALLEST_ROUTING_MARGIN = 2e-3
GREEDY_TOKENS = 64
# A greedy choice closer than this is not a fair question to another implementation.
SMALLEST_GREEDY_MARGIN = 1e-2


def load(folder, config=None, dtype=torch.float32, attention="sdpa"):
    """The checkpoint through `from_pretrained`, with another configuration file put in the place of config.json."""
    source = MODELS / folder
    with tempfile.TemporaryDirectory() as scratch:
        for file in source.iterdir():
            if file.is_file():
                shutil.copy(file, scratch)
        if config:
            shutil.copy(source / "configs" / f"{config}.json", Path(scratch) / "config.json")
        model, report = AutoModelForCausalLM.from_pretrained(
            scratch, dtype=dtype, attn_implementation=attention, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], (folder, config, report)
    model.name_or_path = folder
    model.config._name_or_path = folder
    return model.eval()


def routing_margin(router_logits, mask, top_k):
    """Smallest distance, over layers and real tokens, between the last probability chosen and the first one not."""
    margins = []
    for layer in router_logits:
        chosen = torch.softmax(layer.float(), -1).sort(-1, descending=True).values[mask.reshape(-1).bool()]
        margins.append((chosen[:, top_k - 1] - chosen[:, top_k]).min().item())
    return min(margins)


def chosen_experts(router_logits, mask, top_k):
    keep = mask.reshape(-1).bool()
    return [torch.softmax(layer.float(), -1).topk(top_k, -1).indices.sort(-1).values[keep] for layer in router_logits]


def auxiliary(router_logits, config, mask):
    """transformers' form over all layers together, and the mean over layers of the same formula per layer."""
    count, top_k = config.num_local_experts, config.num_experts_per_tok
    together = load_balancing_loss_func(router_logits, count, top_k, mask)
    each = [load_balancing_loss_func((layer,), count, top_k, mask) for layer in router_logits]
    return {
        "concatenated": together.item(),
        "per_layer_mean": torch.stack(each).mean().item(),
        "concatenated_counting_padding": load_balancing_loss_func(router_logits, count, top_k, None).item(),
    }


def calm_batch(case, models):
    """Inputs of a case. For Mixtral the first seeded batch whose routing no rounding turns: well clear of ties in f32
    and the same experts in bf16 with either attention."""
    if not hasattr(models["sdpa"].config, "num_local_experts"):
        return batch("inference")
    top_k = models["sdpa"].config.num_experts_per_tok
    for attempt in range(3000):
        inputs = batch(f"inference/{case}/{attempt}", lengths=(16, 11))
        mask = inputs["attention_mask"]
        exact = models["sdpa"](**inputs, output_router_logits=True).router_logits
        if routing_margin(exact, mask, top_k) < SMALLEST_ROUTING_MARGIN:
            continue
        want = chosen_experts(exact, mask, top_k)
        halves = (models[key](**inputs, output_router_logits=True).router_logits for key in ("bf16 sdpa", "bf16 eager"))
        if all(torch.equal(a, b) for half in halves for a, b in zip(want, chosen_experts(half, mask, top_k))):
            return inputs
    raise AssertionError(f"no batch with clear routing for {case}")


@torch.no_grad()
def measure(case, folder, config):
    models = {"sdpa": load(folder, config), "eager": load(folder, config, attention="eager"),
              "bf16 sdpa": load(folder, config, torch.bfloat16, "sdpa"),
              "bf16 eager": load(folder, config, torch.bfloat16, "eager")}
    inputs = calm_batch(case, models)
    mask = inputs["attention_mask"]
    real = mask.bool()
    model = models["sdpa"]
    is_mixtral = model.config.model_type == "mixtral"
    options = {"output_router_logits": True} if is_mixtral else {}
    out = model(**inputs, **options)
    logits = out.logits * mask[..., None]
    rotary = model.model.rotary_emb  # after the forward pass: the dynamic form has grown to the width of the batch
    tensors = {**inputs, "logits": logits, "inv_freq": rotary.inv_freq.float()}
    scale = logits[real].abs().max()
    facts = {
        "supervised_tokens": supervised_tokens(inputs),
        "attention_scaling": rotary.attention_scaling,
        "logits_max_abs": scale.item(),
        "eager_against_sdpa_f32": ((models["eager"](**inputs).logits - out.logits)[real].abs().max() / scale).item(),
        "loss": model(**inputs).loss.item(),
    }
    if is_mixtral:
        tensors["router_logits"] = torch.stack(out.router_logits).reshape(len(out.router_logits), *mask.shape, -1)
        facts["aux_loss"] = auxiliary(out.router_logits, model.config, mask)
        assert abs(out.aux_loss.item() - facts["aux_loss"]["concatenated"]) < 1e-7
        facts["router_aux_loss_coef"] = model.config.router_aux_loss_coef
        facts["loss_with_aux"] = out.loss.item()
        facts["routing_margin"] = routing_margin(out.router_logits, mask, model.config.num_experts_per_tok)
    facts["bf16"] = {}
    for attention in ("sdpa", "eager"):
        found = models[f"bf16 {attention}"](**inputs).logits
        error = (found.float() - out.logits)[real]
        facts["bf16"][attention] = {"max": error.abs().max().item(), "rms": error.square().mean().sqrt().item()}
        if attention == "sdpa":
            tensors["logits_bf16"] = found * mask[..., None].to(torch.bfloat16)
    return tensors, facts


@torch.no_grad()
def greedy(folder):
    """The first seeded prompt of 8 tokens whose 64 greedy tokens hold no EOS and no near tie."""
    model = load(folder)
    for attempt in range(200):
        prompt = torch.randint(3, model.config.vocab_size, (1, 8), generator=generator(f"greedy/{folder}/{attempt}"))
        prompt[0, 0] = 1
        text = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=GREEDY_TOKENS,
                              do_sample=False, pad_token_id=0)[0, prompt.shape[1]:]
        if len(text) < GREEDY_TOKENS or (text == model.config.eos_token_id).any():
            continue
        whole = torch.cat([prompt[0], text])
        logits = model(whole[None, :-1]).logits[0, prompt.shape[1] - 1:]
        assert torch.equal(logits.argmax(-1), text)
        top = logits.topk(2, -1).values
        margin = (top[:, 0] - top[:, 1]).min().item()
        if margin > SMALLEST_GREEDY_MARGIN and len(set(text.tolist())) > 12:
            return {"prompt": prompt[0].tolist(), "tokens": text.tolist(), "smallest_margin": margin}
    raise AssertionError(f"no clear greedy text for {folder}")


def write_all():
    facts, stored = {}, {}
    for case, (folder, config) in CASES.items():
        tensors, facts[case] = measure(SAME_AS.get(case, case), folder, config)
        facts[case] |= {"model": folder, "config": f"configs/{config}.json" if config else "config.json"}
        if case in SAME_AS:
            twin = stored[SAME_AS[case]]
            assert all(torch.equal(tensors[key], twin[key]) for key in twin), case
            facts[case]["tensors"] = SAME_AS[case]
            continue
        stored[case] = tensors
        facts[case]["tensors"] = case
        write_tensors(HERE / "expected" / f"{case}.safetensors", tensors)
    write_json(HERE / "expected" / "inference.json", facts)
    write_json(HERE / "expected" / "greedy.json", {name: greedy(name) for name in ("llama-gqa", "mixtral")})
