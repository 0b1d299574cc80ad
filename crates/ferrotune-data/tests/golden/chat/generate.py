"""Golden renderings of chat templates by transformers, and ids of what they wrote.

Run with transformers 5.23 and tokenizers:  python generate.py [<folder with a tokenizer.json>]

Writes chat.json beside this file: for each template its source, the special tokens, and for each conversation the text with
and without a generation prompt, or null where the template refuses. The templates are written here, in the manner of the
families that are named; with the folder of a tokenizer whose special tokens are <|start_story|> and <|end_story|>, also
the ids of texts that spell them.
"""

import importlib.metadata
import json
import pathlib
import sys

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

HERE = pathlib.Path(__file__).parent

TEMPLATES = {
    "chatml": """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
""",
    "llama-2": """{%- if messages[0]['role'] == 'system' -%}
    {%- set loop_messages = messages[1:] -%}
    {%- set system_message = messages[0]['content'].strip() -%}
{%- else -%}
    {%- set loop_messages = messages -%}
    {%- set system_message = false -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate user/assistant/user/...') }}
    {%- endif -%}
    {%- if loop.index0 == 0 and system_message != false -%}
        {%- set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] -%}
    {%- else -%}
        {%- set content = message['content'] -%}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' -%}
        {{ ' ' + content.strip() + ' ' + eos_token }}
    {%- endif -%}
{%- endfor -%}
""",
    "mistral": """{{ bos_token }}{% for message in messages %}{% if message.role not in ['user', 'assistant'] %}{{ raise_exception('only user and assistant roles are supported') }}{% endif %}{% if message.role == 'user' %}{{ '[INST] ' ~ message.content ~ ' [/INST]' }}{% else %}{{ message.content }}{{ eos_token }}{% endif %}{% endfor %}""",
    "llama-3": """{% set loop_messages = messages %}
{% for message in loop_messages %}
    {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}
    {% if loop.index0 == 0 %}
        {% set content = bos_token + content %}
    {% endif %}
{{- content }}
{% endfor %}
{% if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{% endif %}""",
    "namespace": """{%- set ns = namespace(turns=0, system='') %}
{%- for message in messages if message.role != 'system' %}
    {%- set ns.turns = ns.turns + 1 %}
    {%- if loop.first %}FIRST {% endif %}
{{ ns.turns }}/{{ loop.length }} {{ message.role | upper }}: {{ message.content.split('\\n')[0].replace('a', 'A') }}
    {%- if loop.last %} LAST{% else %};{% endif %}
{% endfor %}
{%- if tools is not none and tools %}TOOLS{% endif %}
{%- if documents %}DOCUMENTS{% endif %}
{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
""",
    "json": """{% for message in messages %}{{ message | tojson }}|{{ message.content | tojson(indent=2) }}|{{ {'z': [1, 2.5, none, true], 'a': {'k': message.content}} | tojson(indent=4) }}|{{ [] | tojson }}{% endfor %}""",
    "loop-controls": """{% for message in messages %}{% if message.role == 'system' %}{% continue %}{% endif %}{% if loop.index > 4 %}{% break %}{% endif %}{%- macro say(text, who='x') -%}<{{ who }}>{{ text }}{%- endmacro -%}{{ say(message.content, who=message.role) }}{% endfor %}
{# a comment #}
{%+ if true %} kept{% endif +%}
 end""",
    "generation-marks": """{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% else %}[{{ message.content }}]{%- endif %}
{% endfor %}""",
    "strings": """{% for m in messages %}{{ m.content.startswith('H') }} {{ m.content.endswith('?') }} {{ m.content.upper() }} {{ m.content | length }} {{ m.content[:3] }} {{ m.content[-2:] }} {{ 'a' in m.content }} {{ m.content.lstrip() }}{{ m.content.rstrip('?') }} {{ (m.content ~ 1) | replace('1', '2') }} {{ m.name is defined }} {{ m.get('content', '') == m.content }} {{ m.items() | list | length }} {{ m.content is string }} {{ m is mapping }} {{ (m.content.split(' ') | last) | default('x') }}{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}""",
}

CONVERSATIONS = [
    [("user", "Hello, what is 2 + 2?")],
    [("system", "Be brief. "), ("user", " Hi & <b>hi</b> 'x' ")],
    [("user", "Hi"), ("assistant", "Hello! "), ("user", "naïve 日本語 😀\nsecond \"line\" \\ \u007f")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    [("assistant", "I begin.")],
    [("user", "{{ bos_token }} {% if %} <|im_end|></s>")],
]

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

MARKUP = [
    "<|start_story|>Once upon a time<|end_story|>", "Tom <|end_story|> ran", "<|end_story|><|end_story|>", "a<|start_story|>b",
    " <|start_story|> x", "no token here",
]


def rendered(source, conversation, add):
    messages = [{"role": role, "content": content} for role, content in conversation]
    try:
        found, _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=add, **SPECIAL)
    except jinja2.exceptions.TemplateError:
        return None
    return found[0]


def main():
    cases = {
        name: {
            "source": source,
            "texts": [[rendered(source, c, False), rendered(source, c, True)] for c in CONVERSATIONS],
        } for name, source in TEMPLATES.items()
    }
    golden = {"special": SPECIAL, "conversations": CONVERSATIONS, "templates": cases}
    path = HERE / "chat.json"
    if len(sys.argv) > 1:
        import tokenizers
        tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(sys.argv[1]) / "tokenizer.json"))
        golden["markup"] = [[text, tokenizer.encode(text, add_special_tokens=False).ids] for text in MARKUP]
    elif path.exists():
        golden["markup"] = json.loads(path.read_text())["markup"]
    golden["versions"] = {p: importlib.metadata.version(p) for p in ("transformers", "jinja2", "tokenizers")}
    path.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
