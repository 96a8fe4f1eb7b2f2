"""Bad requests get a clear 4xx in OpenAI's form, and those beside them finish as if alone."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from support.service import Service

GOOD = {"prompt": list(range(40)), "max_tokens": 200, "temperature": 0.8, "seed": 11, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def bad_requests() -> dict[str, tuple[str, bytes, int]]:
    """Name to (path, body, status)."""

    def completion(status: int = 400, **fields: Any) -> tuple[str, bytes, int]:
        return "/v1/completions", json.dumps({"prompt": "x", **fields}).encode(), status

    return {
        "prompt over the model's length": completion(prompt=[1] * 600),
        "prompt and output over the model's length": completion(prompt=[1] * 400, max_tokens=200),
        "unknown model": completion(404, model="gpt-9"),
        "wrong type": completion(max_tokens="many"),
        "ten thousand completions": completion(n=10_000),
        "invalid JSON": ("/v1/completions", b'{"prompt": "x",', 400),
        "NaN temperature": ("/v1/completions", b'{"prompt": "x", "temperature": NaN}', 400),
        "deep JSON": ("/v1/completions", b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        "unknown role": (
            "/v1/chat/completions",
            json.dumps({"messages": [{"role": "wizard", "content": "x"}]}).encode(),
            400,
        ),
        "unsupported by name": (
            "/v1/chat/completions",
            json.dumps({**CHAT, "tools": [{"type": "function"}]}).encode(),
            400,
        ),
        "50 MB body": ("/v1/completions", b'{"prompt": "' + b"x" * 50_000_000 + b'"}', 413),
    }


async def streamed(client: httpx.AsyncClient) -> str:
    text = ""
    async with client.stream("POST", "/v1/completions", json={**GOOD, "stream": True}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                text += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
    assert line == "" or line == "data: [DONE]"
    return text


def test_requests_beside_bad_ones_finish_untouched(
    start_service: Callable[..., Service], checkpoint_folder: Path
) -> None:
    flags = ("--load-format", "dummy", "--max-model-len", "512", "-dp", "2", "--api-server-count", "2")
    service = start_service(str(checkpoint_folder), *flags).wait_ready()

    async def scene() -> None:
        async with httpx.AsyncClient(base_url=service.address, timeout=120) as client:
            alone = await streamed(client)
            good = [asyncio.create_task(streamed(client)) for _ in range(6)]
            for name, (path, body, status) in bad_requests().items():
                response = await client.post(path, content=body, headers={"Content-Type": "application/json"})
                assert response.status_code == status, f"{name}: {response.status_code} {response.text[:300]}"
                error = response.json()["error"]
                assert set(error) == {"message", "type", "param", "code"}, name
                assert error["message"], name
            assert [await task for task in good] == [alone] * len(good)

    asyncio.run(scene())
