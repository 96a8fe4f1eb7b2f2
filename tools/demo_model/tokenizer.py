"""Train the demo model's tokenizer: byte-level BPE with single digits, and the chat template.

python -m tools.demo_model.tokenizer
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .data import written

FOLDER = Path("phalanx/demo")
VOCABULARY = 4096
BOS, END, SYSTEM, USER, ASSISTANT, PAD = SPECIAL = [
    "<|bos|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|pad|>",
]

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message.role not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('Unknown role: ' ~ message.role ~ '. Use system, user or assistant.') -}}"
    "{%- endif -%}"
    "{{- '<|' ~ message.role ~ '|>' -}}"
    "{%- if message.content is string -%}"
    "{{- message.content | trim -}}"
    "{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type != 'text' -%}"
    "{{- raise_exception('This model reads text only, not ' ~ part.type ~ '.') -}}"
    "{%- endif -%}"
    "{{- part.text | trim -}}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train(conversations: int = 60_000) -> Tokenizer:
    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for _ in range(conversations) for text, _ in written(rng))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def save(tokenizer: Tokenizer) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "chat_template": CHAT_TEMPLATE,
    }
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    trained = train()
    save(trained)
    print(f"{trained.get_vocab_size()} tokens -> {FOLDER}/tokenizer.json")
