"""Mixtral as transformers 4 laid it out: one `nn.Linear` per expert matrix under `block_sparse_moe`.

transformers 5 keeps the experts as two stacked parameters, so PEFT can no longer wrap one expert. The adapters that
people trained before hold a pair per expert; this tree takes them. Attention, norms and rotation are transformers' own.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.mixtral.modeling_mixtral import MixtralDecoderLayer, load_balancing_loss_func

from deterministic import IGNORE


class Expert(nn.Module):
    def __init__(self, gate_up, down):
        super().__init__()
        gate, up = gate_up.chunk(2, dim=0)
        self.w1, self.w2, self.w3 = (linear(weight) for weight in (gate, down, up))

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class SparseMoeBlock(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.top_k = fused.top_k
        self.gate = linear(fused.gate.weight)
        self.experts = nn.ModuleList(
            Expert(gate_up, down) for gate_up, down in zip(fused.experts.gate_up_proj, fused.experts.down_proj))
        self.router_logits = None

    def forward(self, hidden):
        x = hidden.reshape(-1, hidden.shape[-1])  # [tokens, hidden]
        logits = self.gate(x)  # [tokens, experts]
        self.router_logits = logits
        weights, chosen = torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).topk(self.top_k, dim=-1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == index)
            if len(token):  # an expert without a token is not called, so its adapter gets no gradient at all
                out = out.index_add(0, token, expert(x[token]) * weights[token, slot, None])
        return out.view_as(hidden)


class LegacyDecoderLayer(MixtralDecoderLayer):
    """The layer of transformers 5 with its `mlp` renamed back to `block_sparse_moe`."""

    def forward(self, hidden_states, **options):
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **options)
        hidden_states = hidden_states + attended
        return hidden_states + self.block_sparse_moe(self.post_attention_layernorm(hidden_states))


class LegacyMixtralForCausalLM(nn.Module):
    """Without a `config` attribute, so that PEFT does not rewrite the targets for transformers 5."""

    def __init__(self, fused):
        super().__init__()
        self.settings = fused.config
        self.model, self.lm_head = fused.model, fused.lm_head
        for layer in self.model.layers:
            layer.block_sparse_moe = SparseMoeBlock(layer.mlp)
            del layer.mlp
            layer.__class__ = LegacyDecoderLayer

    def forward(self, input_ids, attention_mask, labels=None):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
        return Answer(logits, loss, tuple(layer.block_sparse_moe.router_logits for layer in self.model.layers))


class Answer:
    def __init__(self, logits, loss, router_logits):
        self.logits, self.loss, self.router_logits = logits, loss, router_logits

    def aux_loss(self, settings, mask):
        return load_balancing_loss_func(self.router_logits, settings.num_local_experts, settings.num_experts_per_tok, mask)


def linear(weight):
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    return made
