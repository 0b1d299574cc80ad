"""QLoRA: logits, gradients of the first step and ten AdamW steps of PEFT adapters over bases in NF4: qlora/."""

import copy
import shutil
import sys

import bitsandbytes as bnb
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.backends.utils import _get_4bit_code
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tinystories
from adapters import ATTENTION, EXPERTS, Case
from checkpoints import MODELS
from deterministic import HERE, normal, write_json
from inference import load
from quantized import NF4, exact
from training import CLIP, LORA_RATE, adapter_state, perturb, record, save_adapter, search

HOME = HERE / "qlora"

ALL_LINEAR = dict(r=3, lora_alpha=6, target_modules="all-linear")
WITH_EXPERTS = dict(r=2, lora_alpha=4, target_modules=ATTENTION, target_parameters=EXPERTS)

# Case -> (what is trained, who quantizes the scales, if anyone). Codes and scales of 32 bits are the same in every
# implementation. Codes of 8 bits are not: bitsandbytes' compiled CPU backend rounds to one of 65,536 numbers before it
# compares with midpoints, its default backend and CUDA do not. So both are recorded, and where they differ.
CASES = {
    "llama-all-linear": (Case("llama-gqa", ALL_LINEAR), "compiled"),
    "llama-all-linear-midpoints": (Case("llama-gqa", ALL_LINEAR, shares="llama-all-linear"), "midpoints"),
    "llama-q-v": (Case("llama-gqa", dict(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"])), None),
    "mixtral-experts": (Case("mixtral-wide", WITH_EXPERTS), None),
    "mixtral-experts-double": (Case("mixtral-wide", WITH_EXPERTS), "compiled"),
    "mixtral-experts-double-midpoints": (Case("mixtral-wide", WITH_EXPERTS, shares="mixtral-experts-double"), "midpoints"),
}


LIBRARY = torch.library.Library("bitsandbytes", "IMPL")
ON_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
QUANTIZE_BLOCKWISE = {
    "compiled": torch.library.get_kernel("bitsandbytes::quantize_blockwise", "CPU"),
    # A device that bitsandbytes has no kernel for gets the default backend's.
    "midpoints": torch.library.get_kernel("bitsandbytes::quantize_blockwise", "PrivateUse1"),
}
scales_by = "compiled"


def quantize_blockwise(by, *arguments):
    return QUANTIZE_BLOCKWISE[by].call_boxed(ON_CPU, *arguments)


def quantize_scales_by_choice():
    LIBRARY.impl("quantize_blockwise", lambda *arguments: quantize_blockwise(scales_by, *arguments), "CPU",
                 allow_override=True)


def decode_by_the_definition():
    """bitsandbytes 0.50.2 decodes on the CPU as if every row began a block, which is wrong where rows are no whole blocks
    (down_proj here); its generic implementation, like CUDA's, goes by the flattened tensor, as quantizing does."""
    def decode(codes, absmax, blocksize, quant_type, shape, dtype):
        table = _get_4bit_code(quant_type, codes.device)
        return _dequantize_4bit_compute(codes.reshape(-1), absmax, table, blocksize, shape, dtype)
    LIBRARY.impl("dequantize_4bit", decode, "CPU", allow_override=True)
    weight = normal("decode", (64, 112), 1.0)
    assert torch.equal(decoded(weight), decoded(weight.reshape(112, 64)).reshape(64, 112))


def decoded(weight, double=False):
    """dequantize(quantize(W)) in blocks of 64."""
    packed, state = bnb.functional.quantize_4bit(weight.detach().contiguous(), blocksize=64, compress_statistics=double,
                                                 quant_type="nf4")
    return bnb.functional.dequantize_4bit(packed, state).reshape(weight.shape)


@torch.no_grad()
def decode_experts(model, double):
    """bitsandbytes has no stacked experts: each matrix is quantized by itself, as per-expert files hold it."""
    for layer in model.model.layers:
        experts = getattr(layer.mlp, "experts", None)
        if experts is None:
            continue
        for stacked, parts in ((experts.gate_up_proj, 2), (experts.down_proj, 1)):
            for expert in stacked:
                for matrix in expert.chunk(parts):
                    matrix.copy_(decoded(matrix, double))
    return model


def packed_model(folder, double=False):
    """As a user of QLoRA has it: projections in 4 bits by transformers and bitsandbytes."""
    quantization = BitsAndBytesConfig(**NF4 | dict(bnb_4bit_use_double_quant=double), bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=quantization)
    return decode_experts(exact(model), double)


@torch.no_grad()
def decoded_model(folder, double=False):
    """The same weights in dense matrices, which also exist in f64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.copy_(decoded(module.weight, double))
    return decode_experts(model, double)


def check_bases(folder, double=False):
    """Both forms of a base are one."""
    dense = dict(decoded_model(folder, double).named_parameters())
    four_bit = 0
    for name, parameter in packed_model(folder, double).named_parameters():
        if isinstance(parameter, bnb.nn.Params4bit):
            parameter = bnb.functional.dequantize_4bit(parameter.data, parameter.quant_state)
            four_bit += 1
        assert torch.equal(parameter, dense[name]), name
    return four_bit


def matrices(model):
    """What is in 4 bits, under the names of a file with one matrix per expert."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            yield f"{name}.weight", module.weight
        elif name.endswith("mlp.experts"):
            at = name.replace("mlp.experts", "block_sparse_moe.experts")
            for expert, (gate_up, down) in enumerate(zip(module.gate_up_proj, module.down_proj)):
                for part, matrix in zip(("w1", "w3", "w2"), (*gate_up.chunk(2), down)):
                    yield f"{at}.{expert}.{part}.weight", matrix


@torch.no_grad()
def codes_apart(folder):
    """Matrix -> [[index, code]]: the codes of scales that the compiled backend has otherwise than the default one; and how
    many codes there are."""
    table, found, total = bnb.functional.create_dynamic_map(), {}, 0
    for name, matrix in matrices(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)):
        absmax = bnb.functional.quantize_4bit(matrix.detach().contiguous(), blocksize=64, quant_type="nf4")[1].absmax
        compiled, midpoints = (quantize_blockwise(by, absmax - absmax.mean(), table, 256)[0] for by in QUANTIZE_BLOCKWISE)
        total += len(absmax)
        if apart := [[index, compiled[index].item()] for index in (compiled != midpoints).nonzero().flatten().tolist()]:
            found[name] = apart
    return found, total


def wrap(name, case, base, double):
    model = get_peft_model(base(MODELS / case.model, double),
                           LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **copy.deepcopy(case.config)))
    perturb(name, model)
    model.peft_config["default"].base_model_name_or_path = case.model
    return model.eval()


def gradients(model):
    """Gradients under the keys that PEFT writes; every adapter tensor has one."""
    state = dict(model.state_dict())
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    state |= {key: parameter.grad.detach().clone() for key, parameter in trained.items()}
    return get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False), []


def tinystories_run(base, exact_run):
    model = get_peft_model(base(tinystories.folder()), LoraConfig(
        r=tinystories.RANK, lora_alpha=tinystories.ALPHA, target_modules=tinystories.TARGETS, task_type="CAUSAL_LM")).eval()
    tinystories.formula(model)
    if exact_run:
        model.double()
    return model


def write_tinystories():
    if not tinystories.folder().is_dir():
        print("skipped: no folder data/tinystories-656k under FERROTUNE_SHARED; qlora/tinystories.json stays", file=sys.stderr)
        return
    tokenizer = tinystories.Tokenizer.from_file(str(tinystories.folder() / "tokenizer.json"))
    rows, inputs = tinystories.training_rows(tokenizer)
    four_bit = check_bases(tinystories.folder())
    run = tinystories.train(tinystories_run(packed_model, False), inputs)
    apart = tinystories.apart(run, tinystories.train(tinystories_run(decoded_model, True), inputs))
    assert run["losses"][0] - run["losses"][-1] >= 0.5, run["losses"]
    print("tinystories", run["losses"], apart)
    write_json(HOME / "tinystories.json", {
        "rank": tinystories.RANK, "alpha": tinystories.ALPHA, "learning_rate": tinystories.RATE,
        "targets": tinystories.TARGETS, "rows": rows, "unsupervised_prefix": 3, "matrices_in_4_bits": four_bit, "double_quantization": False,
        "f64_deviation": apart, **run})


def write_all():
    global scales_by
    decode_by_the_definition()
    quantize_scales_by_choice()
    shutil.rmtree(HOME / "training", ignore_errors=True)
    shutil.rmtree(HOME / "adapters", ignore_errors=True)
    facts = {}
    for name, (case, scales) in CASES.items():
        scales_by, double, source = scales or "compiled", scales is not None, case.shares or name
        four_bit = check_bases(MODELS / case.model, double)
        micro_batches, _, out, run, final, apart = search(
            f"qlora-{source}", case, lambda: wrap(source, case, packed_model, double), LORA_RATE, gradients, adapter_state,
            make_exact=lambda: wrap(source, case, decoded_model, double))
        if not case.shares:
            save_adapter(name, wrap(name, case, decoded_model, double), home=HOME)
        facts[name] = record(name, case, micro_batches, out, run, final, apart, home=HOME) | {
            "matrices_in_4_bits": four_bit, "scales": scales}
        if scales == "compiled":
            found, total = codes_apart(MODELS / case.model)
            facts[name] |= {"codes_apart": found, "codes_of_scales": total}
        print(name, [round(x, 3) for x in run["losses"]], apart)
    scales_by = "compiled"
    for model in ("llama-gqa",):
        packed_model(MODELS / model, True).save_pretrained(HOME / f"{model}-nf4")
        for extra in (HOME / f"{model}-nf4").glob("generation_config.json"):
            extra.unlink()
    write_json(HOME / "training.json", {
        "cases": facts, "quantization": {"type": "nf4", "block_size": 64},
        "adamw": {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "learning_rate": LORA_RATE,
                  "schedule": "constant", "max_grad_norm": CLIP}})
    write_tinystories()
