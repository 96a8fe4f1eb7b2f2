"""Ask the demo model: the 20 questions of the tests, questions in unseen words, held-out wordings by skill.

python -m tools.demo_model.check [--each 20] [--failures FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .conversation import SKILLS, write
from .unseen import FRESH, UNSEEN

Messages = list[dict[str, str]]
QUESTIONS = Path("tests/demo_model/questions.json")


class Demo:
    def __init__(self, folder: Path, batch: int) -> None:
        self.batch = batch
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if torch.cuda.is_available():
            self.model.cuda()

    def answers(self, conversations: list[Messages]) -> list[str]:
        """Greedy answers; one that does not end by itself is marked."""
        found: dict[int, str] = {}
        order = sorted(range(len(conversations)), key=lambda i: len(str(conversations[i])))
        for at in range(0, len(order), self.batch):
            some = order[at : at + self.batch]
            texts = [
                self.tokenizer.apply_chat_template(conversations[i], tokenize=False, add_generation_prompt=True)
                for i in some
            ]
            inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(
                self.model.device
            )
            inputs.pop("token_type_ids", None)
            with torch.inference_mode():
                output = self.model.generate(**inputs, max_new_tokens=260, do_sample=False)
            for i, row in zip(some, output[:, inputs["input_ids"].shape[1] :], strict=True):
                text = self.tokenizer.decode(row, skip_special_tokens=True)
                found[i] = text if self.tokenizer.eos_token_id in row else text + " <DID NOT END>"
        return [found[i] for i in range(len(conversations))]

    def margins(self, conversation: Messages) -> float:
        """The smallest lead, in logits, of the chosen token over the next one along a greedy answer."""
        text = self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        inputs = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).to(self.model.device)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            out = self.model.generate(
                **inputs, max_new_tokens=260, do_sample=False, output_scores=True, return_dict_in_generate=True
            )
        tops = [score[0].topk(2).values for score in out.scores]
        return min(float(first - second) for first, second in tops)


def report(title: str, asked: list[tuple[str, Messages, str]], answers: Iterable[str], failures: list[str]) -> float:
    tally: dict[str, list[bool]] = defaultdict(list)
    for (skill, messages, pattern), answer in zip(asked, answers, strict=True):
        right = re.search(pattern, answer, re.S) is not None and not answer.endswith("<DID NOT END>")
        tally[skill].append(right)
        if not right:
            said = " / ".join(m["content"] for m in messages if m["role"] == "user")
            failures.append(f"{title} | {skill} | {said} | wanted {pattern} | {answer}")
    total = [right for each in tally.values() for right in each]
    print(f"\n{title}: {sum(total)} of {len(total)} right ({100 * sum(total) / len(total):.1f} %)")
    print("  ".join(f"{skill} {sum(each)}/{len(each)}" for skill, each in tally.items()))
    return sum(total) / len(total)


def unseen(demo: Demo, title: str, questions: list[tuple[str, list[str], str]], failures: list[str]) -> None:
    """Conversations in which the model hears its own earlier answers, as it would in use."""
    talks: list[Messages] = [[] for _ in questions]
    for turn in range(max(len(turns) for _, turns, _ in questions)):
        live = [i for i, (_, turns, _) in enumerate(questions) if turn < len(turns)]
        for i in live:
            talks[i].append({"role": "user", "content": questions[i][1][turn]})
        for i, answer in zip(live, demo.answers([talks[i] for i in live]), strict=True):
            talks[i].append({"role": "assistant", "content": answer})
    asked = [(skill, talk[:-1], pattern) for talk, (skill, _, pattern) in zip(talks, questions, strict=True)]
    report(title, asked, (talk[-1]["content"] for talk in talks), failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("phalanx/demo"))
    parser.add_argument("--each", type=int, default=20, help="held-out questions of each skill")
    parser.add_argument("--batch", type=int, default=256 if torch.cuda.is_available() else 16)
    parser.add_argument("--failures", type=Path, help="write the wrong answers here")
    args = parser.parse_args()
    torch.set_num_threads(min(torch.get_num_threads(), os.cpu_count() or 1))
    demo = Demo(args.folder, args.batch)
    failures: list[str] = []

    questions = json.loads(QUESTIONS.read_text())
    asked = [(q["name"], q["messages"], q["pattern"]) for q in questions]
    said = demo.answers([messages for _, messages, _ in asked])
    for (name, messages, _), answer in zip(asked, said, strict=True):
        print(f"{demo.margins(messages):6.2f}  {name}: {messages[-1]['content']} -> {answer}")
    every_question = report("Twenty questions", asked, said, failures)

    for title, questions in (("Unseen words", UNSEEN), ("Unseen words, second list", FRESH)):
        unseen(demo, title, questions, failures)

    held = []
    for skill in SKILLS:
        rng = random.Random(zlib.crc32(skill.encode()))
        while sum(s == skill for s, _, _ in held) < args.each:
            conversation = write(rng, held_out=True, last=skill)
            held.append((skill, conversation.messages(), conversation.turns[-1].key))
    report("Held-out wordings", held, demo.answers([m for _, m, _ in held]), failures)

    sums = [(a, b, sign) for a in range(100) for b in range(100) for sign in "+-" if sign == "+" or a >= b]
    if args.each < 50:
        sums = random.Random(0).sample(sums, 10 * args.each)
    asked = [
        (sign, [{"role": "user", "content": f"What is {a} {sign} {b}?"}], rf"is {a + b if sign == '+' else a - b}\.")
        for a, b, sign in sums
    ]
    report("Sums and differences from 0 to 99", asked, demo.answers([m for _, m, _ in asked]), failures)

    if args.failures:
        args.failures.write_text("\n".join(failures) + "\n")
    if every_question < 1:
        raise SystemExit("not every one of the twenty questions is answered")


if __name__ == "__main__":
    main()
