"""4-bit checkpoints as bitsandbytes writes them, with their logits: quantized/."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch
import transformers
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.nn.parametrize import replace_parameter_4bit
from transformers import BitsAndBytesConfig, LlamaConfig, MixtralConfig

from batches import batch
from checkpoints import MIXTRAL_THETA, SMALL, THETA, plain, randomise
from deterministic import HERE, write_json, write_tensors

FOLDER = HERE / "quantized"

# 24,576 weights in a projection: 384 scales, more than one block of 256. Rows are whole blocks.
WIDE = SMALL | dict(hidden_size=128, intermediate_size=192, head_dim=32)
# 36 x 36 weights: the last block is short, and blocks straddle rows.
ODD = SMALL | dict(hidden_size=36, intermediate_size=52, num_attention_heads=6, num_key_value_heads=3, head_dim=6)
# Rows of 64 weights, so that no block holds weights of two experts.
EXPERTS = SMALL | dict(hidden_size=64, intermediate_size=64, head_dim=16)

NF4 = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
FP4 = dict(load_in_4bit=True, bnb_4bit_quant_type="fp4")


def llama(shape, **options):
    return LlamaConfig(**shape, tie_word_embeddings=False, rope_parameters=plain(THETA), **options)


def mixtral(shape):
    return MixtralConfig(**shape, num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
                         tie_word_embeddings=False, rope_parameters=plain(MIXTRAL_THETA))


# Case -> (configuration, type of the weights, what is quantized and how, options of save_pretrained).
CASES = {
    "llama-nf4": (llama(WIDE), torch.float32, NF4, {}),
    "llama-fp4-sharded": (llama(ODD, attention_bias=True), torch.bfloat16, FP4, {"max_shard_size": "8KB"}),
    "llama-nf4-bf16-storage": (llama(SMALL), torch.bfloat16, NF4 | dict(bnb_4bit_quant_storage="bfloat16"), {}),
    "mixtral-nf4-attention": (mixtral(SMALL), torch.float32, NF4, {}),
}
STACKED = "mixtral-nf4-stacked"


def dequantize(weight):
    """By bitsandbytes' default backend. Its compiled CPU backend takes the wrong scales where rows are no whole blocks."""
    state = weight.quant_state
    absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    codes = weight.data.view(torch.uint8).reshape(-1)
    return _dequantize_4bit_compute(codes, absmax, state.code, state.blocksize, state.shape, state.dtype)


def exact(model):
    """The model as CUDA and the default backend have it; see the comments for what the compiled CPU backend does."""
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            # Eval on a processor with AVX512-BF16 repacks weights with scales rounded to bf16.
            module.support_avx512bf16_for_cpu = False
            if module.in_features % module.weight.quant_state.blocksize:
                module.forward = functools.partial(dense_forward, module)
    # Asked for 32 bits, `from_pretrained` leaves a quantized model's other tensors in 16.
    for parameter in model.parameters():
        if not isinstance(parameter, bnb.nn.Params4bit) and parameter.is_floating_point():
            parameter.data = parameter.data.float()
    return model.eval()


def dense_forward(module, x):
    return torch.nn.functional.linear(x, dequantize(module.weight).to(x.dtype), module.bias)


def plain_folder(config, dtype, name, folder):
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, name)
    model.to(dtype).save_pretrained(folder)


def write_case(name, config, dtype, quantization, options):
    with tempfile.TemporaryDirectory() as scratch:
        plain_folder(config, dtype, name, scratch)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            scratch, dtype=dtype, quantization_config=BitsAndBytesConfig(**quantization))
        model.save_pretrained(FOLDER / name, **options)
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER / name)


def write_stacked():
    """transformers leaves stacked experts alone; bitsandbytes' own parametrization quantizes them."""
    config = mixtral(EXPERTS)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, STACKED)
    for layer in model.model.layers:
        for parameter in ("gate_up_proj", "down_proj"):
            replace_parameter_4bit(layer.mlp.experts, parameter, compress_statistics=True, quant_type="nf4")
    write_tensors(FOLDER / STACKED / "model.safetensors", model.state_dict())
    fields = json.loads(config.to_json_string()) | {
        "architectures": ["MixtralForCausalLM"], "dtype": "float32",
        "quantization_config": BitsAndBytesConfig(**NF4).to_dict()}
    write_json(FOLDER / STACKED / "config.json", fields)
    return model


@torch.no_grad()
def facts(name, model, decoded):
    ids = batch(name, (12, 12))["input_ids"]
    return {f"{name}.input_ids": ids, f"{name}.logits": exact(model)(input_ids=ids).logits, f"{name}.decoded": decoded}


def write_all():
    shutil.rmtree(FOLDER, ignore_errors=True)
    expected = {}
    for name, case in CASES.items():
        model = write_case(name, *case)
        q_proj = model.model.layers[1].self_attn.q_proj.weight
        assert isinstance(q_proj, bnb.nn.Params4bit)
        expected |= facts(name, model, dequantize(q_proj))
        for extra in (FOLDER / name).glob("generation_config.json"):
            extra.unlink()
    model = write_stacked()
    expected |= facts(STACKED, model, model.model.layers[1].mlp.experts.gate_up_proj)
    write_tensors(FOLDER / "expected.safetensors", expected)
