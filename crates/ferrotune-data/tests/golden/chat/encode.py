"""Conversations as ids with the model's turns marked, by transformers' own reading of `{% generation %}`.

    python encode.py > encode.json

transformers 5.23.0, with the tokenizer of ../sentencepiece.
"""

import json
import pathlib

from transformers import PreTrainedTokenizerFast

TEMPLATES = {
    "marked turns": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\n"
        "{% generation %}{{ m.content | trim }}{{ eos_token }}{% endgeneration %}\n"
        "{% else %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "turns in brackets": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content.strip() }} [/INST]"
        "{% else %}{% generation %} {{ m.content.strip() }} {{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    ),
}
RECORDS = [
    [["Name a prime.", "Seven."]],
    [["How long is it?", "Ten words,\nor  so."], ["And now?", "It ends </s> here."]],
    [["Greet me", "¡Hola, señor! 你好"]],
]

# As tokenizer.json has it: transformers 5 would make a LLaMA tokenizer's own rules of word marks from the class's name.
file = pathlib.Path(__file__).parent / "../sentencepiece/tokenizer.json"
tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), bos_token="<s>", eos_token="</s>")
cases = []
for name, source in TEMPLATES.items():
    for turns in RECORDS:
        messages = []
        for request, response in turns:
            messages += [{"role": "user", "content": request}, {"role": "assistant", "content": response}]
        found = tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        prompt = tokenizer.apply_chat_template(
            messages[:-1], chat_template=source, tokenize=True, return_dict=True, add_generation_prompt=True
        )
        cases.append(
            {
                "template": name,
                "turns": turns,
                "ids": found["input_ids"],
                "mask": found["assistant_masks"],
                "prompt": prompt["input_ids"],
            }
        )
print(json.dumps({"templates": TEMPLATES, "cases": cases}, ensure_ascii=False))
