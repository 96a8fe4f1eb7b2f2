"""The bundled demo model, served as `make serve` does, holds its conversations; transformers gives the same text."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import transformers
from support.service import Service

import phalanx

QUESTIONS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("questions.json").read_text())
FOLDER = Path(phalanx.__file__).parent / "demo"


@pytest.fixture(scope="module")
def served() -> Iterator[Service]:
    with Service("-dp", "2", "--api-server-count", "2") as service:
        yield service.wait_ready()


async def _answers(service: Service) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(base_url=service.address, timeout=120) as client:
        bodies = [
            {"messages": question["messages"], "temperature": 0, "return_token_ids": True} for question in QUESTIONS
        ]
        responses = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))
        return [response.json()["choices"][0] for response in responses]


@pytest.fixture(scope="module")
def answers(served: Service) -> dict[str, dict[str, Any]]:
    """All questions asked at once, to both ranks."""
    choices = asyncio.run(_answers(served))
    return {question["name"]: choice for question, choice in zip(QUESTIONS, choices, strict=True)}


def test_there_are_twenty_questions_of_different_names() -> None:
    assert len({question["name"] for question in QUESTIONS}) == 20


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["name"])
def test_it(question: dict[str, Any], answers: dict[str, dict[str, Any]]) -> None:
    choice = answers[question["name"]]
    assert re.search(question["pattern"], choice["message"]["content"], re.S), choice["message"]["content"]
    assert choice["finish_reason"] == "stop", "it did not end its turn itself"


def test_transformers_gives_the_same_greedy_text_from_the_same_folder(answers: dict[str, dict[str, Any]]) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    for question in QUESTIONS:
        prompt = tokenizer.apply_chat_template(question["messages"], add_generation_prompt=True)["input_ids"]
        answer = answers[question["name"]]["token_ids"]
        # Each token is the likeliest after all before it, the end of the turn included: greedy text, in one pass.
        with torch.no_grad():
            logits_TV = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        assert logits_TV.argmax(-1).tolist() == answer
        assert answer[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(answer, skip_special_tokens=True)
        assert text == answers[question["name"]]["message"]["content"]
