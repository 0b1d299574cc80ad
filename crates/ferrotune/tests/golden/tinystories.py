"""Small facts about the trained checkpoint `tinystories-656k`, which is not committed: expected/tinystories.json."""

import hashlib
import os
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from deterministic import HERE, IGNORE, write_json

PROMPTS = ["Once upon a time, there was a little girl", "The old boat was made of wood and"]
SENTENCE = "Tom had a red kite. One windy day the kite flew over the tall tree and Tom ran after it."
TRAINING = ["Copper pipes rust never but iron gates do, said the tired plumber to his seven apprentices.",
            "Seven minus four leaves three."]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA, RATE, STEPS = 4, 8, 1e-2, 10
SAMPLE = 8  # logits of this many first vocabulary entries are kept per position


def folder():
    shared = os.environ.get("FERROTUNE_SHARED") or HERE.parents[3] / ".." / "shared"
    return Path(shared) / "data" / "tinystories-656k"


def load(dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder(), dtype=dtype).eval()


def formula(model):
    """The m-th adapted matrix, layers outermost and TARGETS in their order inside, gets
    A[i, j] = 0.05 sin(131 i + 17 j + 7 m) and B[i, j] = 0.05 cos(17 i + 131 j + 7 m), in f64, rounded to f32."""
    layers = model.base_model.model.model.layers
    index = 0
    for layer in layers:
        for target in TARGETS:
            owner = layer.self_attn if target in ("q_proj", "k_proj", "v_proj", "o_proj") else layer.mlp
            module = getattr(owner, target)
            for weight, wave, steps in ((module.lora_A["default"].weight, torch.sin, (131, 17)),
                                        (module.lora_B["default"].weight, torch.cos, (17, 131))):
                row = torch.arange(weight.shape[0], dtype=torch.float64)[:, None]
                column = torch.arange(weight.shape[1], dtype=torch.float64)[None, :]
                with torch.no_grad():
                    weight.copy_(0.05 * wave(steps[0] * row + steps[1] * column + 7 * index))
            index += 1


def training_rows(tokenizer):
    rows = [[1] + tokenizer.encode(text, add_special_tokens=False).ids + [2] for text in TRAINING]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = torch.where(mask.bool(), ids, IGNORE)
    labels[:, :3] = IGNORE
    return rows, {"input_ids": ids, "attention_mask": mask, "labels": labels}


def tensor_facts(tensor):
    return {"norm": tensor.double().norm().item(), "first": tensor.flatten()[:4].tolist(), "last": tensor.flatten()[-1].item()}


def adapter_run(inputs, exact=False):
    model = get_peft_model(load(), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")).eval()
    formula(model)
    return train(model.double() if exact else model, inputs)


def train(model, inputs):
    """Ten steps of AdamW; the first step's gradients and the last values as a few facts each."""
    trained = {key.replace(".default", ""): value for key, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    run = {"losses": [], "grad_norms": []}
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = model(**inputs).loss
        loss.backward()
        if step == 0:
            run["gradients"] = {key: tensor_facts(value.grad) for key, value in trained.items()}
        run["losses"].append(loss.item())
        run["grad_norms"].append(torch.nn.utils.clip_grad_norm_(trained.values(), 1.0).item())
        optimizer.step()
    run["final"] = {key: tensor_facts(value.detach()) for key, value in trained.items()}
    return run


def apart(run, exact):
    """How far the run in f32 is from the one in f64."""
    return {
        "losses": max(abs(a - b) / b for a, b in zip(run["losses"], exact["losses"])),
        "final_norms": max(abs(run["final"][key]["norm"] / exact["final"][key]["norm"] - 1) for key in run["final"]),
        "final_values": max(abs(a - b) for key in run["final"] for a, b in zip(run["final"][key]["first"], exact["final"][key]["first"])),
    }


def greedy(model, tokenizer, prompt):
    ids = [1] + tokenizer.encode(prompt, add_special_tokens=False).ids
    text = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=64,
                          do_sample=False, pad_token_id=0)[0]
    with torch.no_grad():
        top = model(text[None, :-1]).logits[0, len(ids) - 1:].topk(2, -1).values
    return {"text": prompt, "prompt": ids, "tokens": text[len(ids):].tolist(), "continuation": tokenizer.decode(text[len(ids):].tolist()),
            "smallest_margin": (top[:, 0] - top[:, 1]).min().item()}


def write_all():
    if not folder().is_dir():
        print("skipped: no folder data/tinystories-656k under FERROTUNE_SHARED; expected/tinystories.json stays", file=sys.stderr)
        return
    tokenizer, model = Tokenizer.from_file(str(folder() / "tokenizer.json")), load()
    ids = torch.tensor([[1] + tokenizer.encode(SENTENCE, add_special_tokens=False).ids])
    with torch.no_grad():
        logits = model(ids).logits[0]
        half = load(torch.bfloat16)(ids).logits[0].float()
    log_likelihood = torch.log_softmax(logits.double(), -1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    error = half - logits
    rows, inputs = training_rows(tokenizer)
    run, exact = adapter_run(inputs), adapter_run(inputs, exact=True)
    assert run["losses"][0] - run["losses"][-1] >= 0.5, run["losses"]
    deviation = apart(run, exact)
    print(run["losses"], deviation)
    write_json(HERE / "expected" / "tinystories.json", {
        "model_sha256": hashlib.sha256((folder() / "model.safetensors").read_bytes()).hexdigest(),
        "greedy": [greedy(model, tokenizer, prompt) for prompt in PROMPTS],
        "sentence": {
            "text": SENTENCE, "ids": ids[0].tolist(), "log_likelihoods": log_likelihood.tolist(),
            "log_likelihood": log_likelihood.sum().item(), "loss": -log_likelihood.mean().item(),
            "logits_first": logits[:, :SAMPLE].tolist(), "logits_max_abs": logits.abs().max().item(),
            "bf16": {"max": error.abs().max().item(), "rms": error.square().mean().sqrt().item()},
        },
        "lora": {
            "rank": RANK, "alpha": ALPHA, "learning_rate": RATE, "targets": TARGETS, "rows": rows,
            "unsupervised_prefix": 3, "f64_deviation": deviation, **run,
        },
    })
