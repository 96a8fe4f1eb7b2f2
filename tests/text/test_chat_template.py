"""Published chat templates render as transformers renders them, and nothing escapes the sandbox."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from phalanx.text.chat_template import ChatTemplate, NoChatTemplate, TemplateError, TemplateSource, find_template

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


NAMED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config_dot_json": {"chat_template": "config"}}, "config"),
        ({"chat_template_dot_jinja": "file", "tokenizer_config_dot_json": {"chat_template": "config"}}, "file"),
        ({"chat_template_dot_json": {"chat_template": "json"}, "tokenizer_config_dot_json": {}}, "json"),
        (
            {
                "chat_template_dot_json": {"chat_template": "json"},
                "tokenizer_config_dot_json": {"chat_template": "config"},
            },
            "config",
        ),
        ({"tokenizer_config_dot_json": {"chat_template": NAMED}}, "plain"),
        ({"tokenizer_config_dot_json": {"chat_template": {"default": "plain", "rag": "documents"}}}, "plain"),
        ({"chat_template_dot_json": {"chat_template": NAMED}}, "plain"),
    ],
    ids=str,
)
def test_the_template_is_found_where_the_checkpoint_has_it(
    files: dict[str, Any], expected: str, tmp_path: Path, checkpoint_folder: Path
) -> None:
    from transformers import AutoTokenizer

    write(tmp_path, **files)
    found = find_template(tmp_path)
    assert isinstance(found, TemplateSource)
    assert found.text == expected
    # transformers' tokenizers do not read chat_template.json, which is its processors'.
    if set(files) != {"chat_template_dot_json"} and expected != "json":
        shutil.copy(checkpoint_folder / "tokenizer.json", tmp_path)
        assert AutoTokenizer.from_pretrained(tmp_path).get_chat_template() == expected


def test_named_templates_without_a_default_are_named(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config_dot_json={"chat_template": [NAMED[0], {"name": "rag", "template": "x"}]})
    found = find_template(tmp_path)
    assert found == NoChatTemplate("This model's chat templates have names (rag, tool_use), and none is named default.")


def test_a_checkpoint_may_have_none(tmp_path: Path) -> None:
    assert find_template(tmp_path) == NoChatTemplate("This model's files have no chat template.")


def test_a_template_that_is_no_text_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"chat_template\.jinja is not UTF-8"):
        find_template(tmp_path)


CONTINUED = {
    **{name: source for name, source in TEMPLATES.items() if name != LEAVES_THE_END_OUT},
    "strips messages": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>{% endfor %}",
    "ends like a message": "{% for m in messages %}{{ m.role }}: {{ m.content }} end e{% endfor %}",
    "drops what was thought": "{% for m in messages %}<{{ m.content.split('</think>')[-1] }}>{% endfor %}",
}


@pytest.mark.parametrize("name", CONTINUED)
@pytest.mark.parametrize(
    "content",
    [
        "e",
        "end",
        "|",
        "",
        " ",
        "\n",
        "The capital",
        "Hi",
        "Hi Hi",
        " both ",
        "e\n",
        "<|end|>",
        "a</think>b",
        "é",
        "\u3000",
    ],
)
def test_messages_are_continued_where_transformers_continues_them(name: str, content: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    source = CONTINUED[name]
    try:
        rendered, _ = render_jinja_template([chat], chat_template=source, continue_final_message=True, **SPECIAL)
        expected = rendered[0]
    except ValueError:
        expected = "refused"
    try:
        found = ChatTemplate(source, SPECIAL).render(chat, add_generation_prompt=False, continue_final_message=True)
    except TemplateError:
        found = "refused"
    assert found == expected


def test_a_message_that_the_template_repeats_is_continued_in_its_last_place() -> None:
    template = ChatTemplate(
        "[{{ messages[-1].content }}|{{ messages[-1].content | trim }}|{{ messages[-1].content }}]", SPECIAL
    )
    rendered = template.render([{"role": "assistant", "content": "e"}], continue_final_message=True)
    assert rendered == "[e|e|e"


def test_a_last_message_without_text_cannot_be_continued() -> None:
    template = ChatTemplate(TEMPLATES["chatml"], SPECIAL)
    with pytest.raises(TemplateError, match="no text"):
        template.render([{"role": "assistant", "content": None}], continue_final_message=True)
