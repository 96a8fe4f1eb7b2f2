"""Published chat templates render as transformers renders them, and nothing escapes the sandbox."""

import json
from pathlib import Path
from typing import Any

import pytest

from phalanx.api.chat_template import ChatTemplate, TemplateError, find_template

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <b>&</b> 'é'"},
    {"role": "assistant", "content": " Hello. "},
    {"role": "user", "content": "Bye"},
]

LEAVES_THE_END_OUT = "loop controls, tojson, namespace"

TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "system first, as Llama 2": """
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (('<<SYS>>\n' + system + '\n<</SYS>>\n\n') if loop.first and system else '') }}
        {{- message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'].strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}""",
    LEAVES_THE_END_OUT: """
{%- set ns = namespace(count=0) -%}
{%- for message in messages -%}
    {%- if message.role == 'system' %}{% continue %}{% endif -%}
    {%- set ns.count = ns.count + 1 -%}
    {{ message | tojson }}{{ message | tojson(indent=2) }}
    {%- if ns.count == 2 %}{% break %}{% endif -%}
{%- endfor -%}
{{ ns.count }}{% if tools is not none %}tools{% endif %}""",
    "generation": "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "blocks on lines of their own": """{% for message in messages %}
  {% if message.role == 'user' %}
U {{ message.content }}
  {% else %}
A {{ message.content }}
  {% endif %}
{% endfor %}
""",
}


OPTIONS: list[dict[str, bool]] = [{}, {"add_generation_prompt": True}, {"continue_final_message": True}]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (name, options)
        for name in TEMPLATES
        for options in OPTIONS
        if not (name == LEAVES_THE_END_OUT and "continue_final_message" in options)
    ],
    ids=str,
)
def test_templates_render_as_transformers_renders_them(name: str, options: dict[str, bool]) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([CHAT], chat_template=TEMPLATES[name], **options, **SPECIAL)
    ours = ChatTemplate(TEMPLATES[name], SPECIAL)
    assert ours.render(CHAT, **{"add_generation_prompt": False, **options}) == rendered[0]


def test_what_the_template_raises_is_told_in_its_words() -> None:
    template = ChatTemplate(TEMPLATES["system first, as Llama 2"], SPECIAL)
    with pytest.raises(TemplateError, match="must alternate"):
        template.render([CHAT[1], CHAT[1]])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__ }}",
        "{% do messages.append(1) %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.nothing.here }}",
        "{{ '{0.__class__}'.format(messages) }}",
    ],
)
def test_templates_cannot_reach_out_or_run_on(source: str) -> None:
    """Each is refused when it is compiled or rendered, or finds nothing there."""
    before = json.dumps(CHAT)
    try:
        shown = ChatTemplate(source, SPECIAL).render(CHAT)
    except (ValueError, TemplateError):
        shown = ""
    assert shown == ""
    assert json.dumps(CHAT) == before


def test_values_of_the_request_reach_the_template() -> None:
    template = ChatTemplate("{{ 'think' if enable_thinking else 'no' }}", SPECIAL)
    assert template.render(CHAT, extra={"enable_thinking": True}) == "think"
    assert template.render(CHAT) == "no"


def test_a_template_that_does_not_compile_says_where() -> None:
    with pytest.raises(ValueError, match="line 2"):
        ChatTemplate("a\n{% if %}", SPECIAL)


def test_a_message_that_the_template_changes_cannot_be_continued() -> None:
    template = ChatTemplate("{{ messages[-1].content | upper }}", SPECIAL)
    with pytest.raises(TemplateError, match="cannot be continued"):
        template.render(CHAT, continue_final_message=True)


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        path = folder / name.replace("_dot_", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_checkpoint_s_own_file_wins_over_its_configuration(tmp_path: Path) -> None:
    write(tmp_path, chat_template_dot_jinja="file", tokenizer_config_dot_json={"chat_template": "config"})
    found = find_template(tmp_path)
    assert found is not None
    assert found[0] == "file"


def test_of_several_named_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    write(tmp_path, tokenizer_config_dot_json={"chat_template": named})
    found = find_template(tmp_path)
    assert found is not None
    assert found[0] == "plain"


def test_a_checkpoint_may_have_none(tmp_path: Path) -> None:
    assert find_template(tmp_path) is None
