"""Gradients of the first step and ten AdamW steps of PEFT adapters and of whole models: training/, adapters/, merged/."""

import copy
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch.nn import functional as F

from adapters import ADAPTERS, FULL
from batches import batch, supervised_tokens
from deterministic import HERE, IGNORE, normal, relative, write_json, write_tensors
from inference import load, routing_margin
from legacy_mixtral import LegacyMixtralForCausalLM

STEPS = 10
LORA_RATE, FULL_RATE = 1e-2, 1e-3
CLIP = 1.0
SMALLEST_FALL = 0.5
# The same run in f64 ends this close to the f32 run, or the case is too delicate to be a referee: a twentieth of the
# 1e-4 that is asked of an implementation.
LARGEST_F64_DEVIATION = 5e-6
SMALLEST_ROUTING_MARGIN = 2e-4  # a turned routing decision is another computation, not another rounding
LARGEST_MERGE_DIFFERENCE = 5e-6


def base_model(case):
    model = load(case.model)
    model.config.output_router_logits = case.aux
    if not case.legacy:
        return model
    inputs = batch("legacy")
    with torch.no_grad():
        fused = model(**inputs).logits
        legacy = LegacyMixtralForCausalLM(model)
        apart = ((legacy(**inputs).logits - fused).abs().max() / fused.abs().max()).item()
    assert apart < 2e-6, apart
    return legacy


def perturb(name, model):
    """Everything trainable away from its starting value: B is not zero, biases and saved modules differ from the base."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            draw = normal(f"{name}/{key}", parameter.shape, 1.0)
            if "lora_A" in key:
                parameter.copy_(draw / parameter.shape[-1] ** 0.5)
            elif "lora_B" in key:
                parameter.copy_(0.15 * draw)
            else:
                parameter.add_(0.1 * draw)


def wrap(name, case):
    model = get_peft_model(base_model(case), LoraConfig(lora_dropout=0.0, task_type=None if case.legacy else "CAUSAL_LM",
                                                        **copy.deepcopy(case.config)))
    perturb(name, model)
    model.peft_config["default"].base_model_name_or_path = case.model
    return model.eval()


def adapter_state(model):
    return {key: value.detach().clone() for key, value in get_peft_model_state_dict(model, save_embedding_layers=False).items()}


def adapter_gradients(model):
    """Gradients under the keys that PEFT writes to adapter_model.safetensors, and the keys that got none."""
    state = {key: torch.full_like(value, torch.nan) for key, value in model.state_dict().items()}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            state[key] = parameter.grad.detach().clone()
    found = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    absent = sorted(key for key, value in found.items() if value.isnan().any())
    return {key: value for key, value in found.items() if key not in absent}, absent


def loss_of(model, micro_batches, case):
    """Sum of the token losses of the window over its supervised tokens, plus the auxiliary loss where the case has it."""
    total = sum(supervised_tokens(inputs) for inputs in micro_batches)
    for inputs in micro_batches:
        out = model(**inputs)
        if len(micro_batches) == 1:
            loss = out.loss
        else:
            loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(),
                                   ignore_index=IGNORE, reduction="sum") / total
        yield loss


@torch.no_grad()
def routing_of(model, micro_batches, case):
    if not case.model.startswith("mixtral"):
        return []
    options = {} if case.legacy else {"output_router_logits": True}
    return [routing_margin(model(**inputs, **options).router_logits, inputs["attention_mask"], 2) for inputs in micro_batches]


def ten_steps(model, micro_batches, case, rate, gradients_of):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    run = {"losses": [], "grad_norms": [], "routing_margins": []}
    for step in range(case.steps):
        optimizer.zero_grad(set_to_none=True)
        window = 0.0
        for loss in loss_of(model, micro_batches, case):
            loss.backward()
            window += loss.item()
        run["routing_margins"] += routing_of(model, micro_batches, case)
        if step == 0:
            run["gradients"], run["no_gradient"] = gradients_of(model)
            without = [parameter.grad is None for parameter in trained]
        assert without == [parameter.grad is None for parameter in trained], "an expert lost or found its tokens"
        run["losses"].append(window)
        run["grad_norms"].append(torch.nn.utils.clip_grad_norm_(trained, CLIP).item())
        optimizer.step()
    return run


def deviation(run, exact, final, exact_final):
    return {
        "losses": max(abs(a - b) / abs(b) for a, b in zip(run["losses"], exact["losses"])),
        "gradients": max(relative(run["gradients"][key], exact["gradients"][key]) for key in run["gradients"]),
        "final": max(relative(final[key], exact_final[key]) for key in final),
    }


def micro_batches_of(name, case, attempt):
    return [batch(f"training/{case.shares or name}/{attempt}/{index}", **shape) for index, shape in enumerate(case.shapes)]


def accept(case, run, apart):
    if not case.steps > 1:
        return apart["gradients"] < LARGEST_F64_DEVIATION
    calm = not run["routing_margins"] or min(run["routing_margins"]) > SMALLEST_ROUTING_MARGIN
    full = case.every_expert is False or not run["no_gradient"]
    return (calm and full and run["losses"][0] - run["losses"][-1] >= SMALLEST_FALL
            and max(apart.values()) < LARGEST_F64_DEVIATION)


def in_f64(model):
    """The same model in f64, with the loop over experts: the grouped product takes no f64."""
    for module in model.modules():
        if hasattr(module, "config") and hasattr(module.config, "num_local_experts"):
            module.config._experts_implementation = "eager"
    return model.double()


def has_idle_expert(run):
    """Linear experts without a token have no gradient, stacked ones a block of zero rows in the gradient of A."""
    flat = (value for key, value in run["gradients"].items() if "experts" in key and "lora_A" in key)
    return bool(run["no_gradient"]) or any((value == 0).all(-1).any() for value in flat)


def search(name, case, make, rate, gradients_of, state_of, make_exact=None):
    """The first seeded batch on which the f32 run and the f64 run agree: what remains is a fair question."""
    for attempt in range(60):
        micro_batches = micro_batches_of(name, case, attempt)
        model, exact_model = make(), in_f64((make_exact or make)())
        start = state_of(model)
        with torch.no_grad():
            out = model(**micro_batches[0])
        run = ten_steps(model, micro_batches, case, rate, gradients_of)
        exact = ten_steps(exact_model, micro_batches, case, rate, gradients_of)
        if case.idle_expert and not has_idle_expert(run):
            continue
        apart = deviation(run, exact, state_of(model), state_of(exact_model))
        if accept(case, run, apart):
            return micro_batches, start, out, run, state_of(model), apart
    raise AssertionError(f"no batch for {name}: last {run['losses']}, {apart}")


def record(name, case, micro_batches, out, run, final, apart, keep=lambda key: True, home=HERE):
    tensors = {}
    for index, inputs in enumerate(micro_batches):
        tensors |= {f"{key}.{index}": value for key, value in inputs.items()}
    tensors["logits"] = out.logits * micro_batches[0]["attention_mask"][..., None]
    tensors |= {f"grad.{key}": value for key, value in run["gradients"].items() if keep(key)}
    if case.steps > 1:
        tensors |= {f"final.{key}": value for key, value in final.items() if keep(key)}
    write_tensors(home / "training" / f"{name}.safetensors", tensors)
    facts = {
        "model": case.model, "adapter": None if case.config is None else f"adapters/{case.shares or name}",
        "steps": case.steps, "aux_in_loss": case.aux, "micro_batches": len(micro_batches),
        "supervised_tokens": [supervised_tokens(inputs) for inputs in micro_batches],
        "losses": run["losses"], "grad_norms": run["grad_norms"], "no_gradient": run["no_gradient"],
        "f64_deviation": apart,
    }
    if case.steps == 1:
        del apart["final"]  # one step from rounding-sized gradients says nothing; the weights are not stored
    if run["routing_margins"]:
        facts["smallest_routing_margin"] = min(run["routing_margins"])
    return facts


def save_adapter(name, model, home=HERE):
    """As PEFT writes it, without the empty model card, and with sets in alphabetical order so that runs agree."""
    folder = home / "adapters" / name
    shutil.rmtree(folder, ignore_errors=True)
    config = model.peft_config["default"]
    config.task_type = "CAUSAL_LM"  # the tree of linear experts is no class of transformers, its adapter is as any other
    for key in ("target_modules", "exclude_modules", "target_parameters"):
        if isinstance(getattr(config, key), set):
            setattr(config, key, sorted(getattr(config, key)))
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()


def check_reload(name, case, inputs, logits):
    """PEFT reads back what it wrote and gives the same logits. A per-expert folder goes through PEFT's upgrade to stacked
    experts on the way, and what PEFT would write after it is kept as another folder."""
    folder = HERE / "adapters" / (case.shares or name)
    model = PeftModel.from_pretrained(load(case.model), folder).eval()
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        again = model(**inputs).logits * mask
    apart = ((again - logits * mask).abs().max() / logits.abs().max()).item()
    assert apart < 2e-6, (name, apart)
    if case.legacy and not case.shares:
        model.peft_config["default"].base_model_name_or_path = case.model
        save_adapter(f"{name}-upgraded", model)
    return apart


def merge(name, case):
    model = wrap(name, case)
    inputs = batch("merge")
    with torch.no_grad():
        before = model(**inputs).logits
    base = {key: value for key, value in base_model(case).state_dict().items()}
    merged = model.merge_and_unload()
    with torch.no_grad():
        apart = ((merged(**inputs).logits - before).abs().max() / before.abs().max()).item()
    assert apart < LARGEST_MERGE_DIFFERENCE, (name, apart)
    touched = {key: value for key, value in merged.state_dict().items() if not torch.equal(value, base[key])}
    write_tensors(HERE / "merged" / f"{name}.safetensors", touched)
    return {"tensors": len(touched), "logits_against_unmerged": apart}


def full_gradients(model):
    return {key: parameter.grad.clone() for key, parameter in model.named_parameters()}, []


def full_state(model):
    return {key: parameter.detach().clone() for key, parameter in model.named_parameters()}


def write_all():
    shutil.rmtree(HERE / "training", ignore_errors=True)
    shutil.rmtree(HERE / "merged", ignore_errors=True)
    shutil.rmtree(HERE / "adapters", ignore_errors=True)
    facts, merges = {}, {}
    for name, case in ADAPTERS.items():
        make = lambda: wrap(case.shares or name, case)
        micro_batches, start, out, run, final, apart = search(name, case, make, LORA_RATE, adapter_gradients, adapter_state)
        if not case.shares:
            save_adapter(name, make())
        facts[name] = record(name, case, micro_batches, out, run, final, apart)
        if not (case.legacy and case.config.get("use_dora")):  # PEFT has no magnitudes for stacked experts to upgrade to
            facts[name]["peft_reload"] = check_reload(name, case, micro_batches[0], out.logits)
        if case.merge:
            merges[name] = merge(name, case)
        print(name, [round(x, 3) for x in run["losses"]], apart)
    for name, case in FULL.items():
        def make():
            model = load(case.model)
            model.config.output_router_logits = case.aux
            return model.requires_grad_(True)
        micro_batches, _, out, run, final, apart = search(name, case, make, FULL_RATE, full_gradients, full_state)
        facts[name] = record(name, case, micro_batches, out, run, final, apart, case.keep)
        print(name, [round(x, 3) for x in run["losses"]], apart)
    write_json(HERE / "training" / "training.json", {
        "cases": facts, "merged": merges,
        "adamw": {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "lora_learning_rate": LORA_RATE,
                  "full_learning_rate": FULL_RATE, "schedule": "constant", "max_grad_norm": CLIP}})
