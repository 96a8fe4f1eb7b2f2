"""What the compiled front-end answers, before a rank that says what the test tells it to."""

from collections.abc import Callable

from support.fake_engine import an_output, events, scored
from support.standing_alone import FrontEnd, NumberedRank

from phalanx.protocol import FinishReason, PhaseTimes, RequestOutput, SamplingParams

END = 256
Serve = Callable[..., FrontEnd]


def saying(*steps: list[int], finish: FinishReason = FinishReason.STOP, stop_token: int | None = None):  # type: ignore[no-untyped-def]
    """Bring these tokens, a list a step, and end with the last."""

    def script(prompt: list[int], sampling: SamplingParams) -> list[RequestOutput]:
        return [
            an_output(
                tokens,
                finish if number == len(steps) - 1 else None,
                stop_token=stop_token if number == len(steps) - 1 else None,
                cached_tokens=2 if number == 0 else 0,
                times=PhaseTimes(0.25, 0.5) if number == 0 else None,
                logprobs=None if sampling.logprobs is None else [scored(token, sampling.logprobs) for token in tokens],
                prompt_logprobs=None
                if sampling.prompt_logprobs is None or number
                else [None, *(scored(token, sampling.prompt_logprobs) for token in prompt[1:])],
            )
            for number, tokens in enumerate(steps)
        ]

    return script


# --- /v1/completions ---


def test_a_completion_has_its_token_ids_and_usage(serve: Serve) -> None:
    front_end = serve(saying([10], [11, 12], [END]))
    answer = front_end.http.post("/v1/completions", json={"prompt": [1, 2, 3], "return_token_ids": True})
    assert answer.status_code == 200
    assert answer.headers["x-phalanx-api-server"] == "0"
    assert answer.headers["x-phalanx-ranks"] == "0"
    body = answer.json()
    assert body["object"] == "text_completion"
    assert body["model"] == "test-model"
    assert body["choices"] == [
        {
            "index": 0,
            "text": "",
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": [10, 11, 12, END],
            "prompt_token_ids": [1, 2, 3],
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_a_stream_has_an_event_a_step_then_usage_and_done(serve: Serve) -> None:
    rank = NumberedRank(lambda prompt, sampling: [an_output([10])])
    front_end = serve(rank)
    wish = {"prompt": [7], "stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    with front_end.http.stream("POST", "/v1/completions", json=wish) as answer:
        asked = rank.wait_asked(1)[0]
        parts = answer.iter_raw()
        got = [next(parts)]
        rank.push(asked, an_output([11, 12]))
        got.append(next(parts))
        rank.push(asked, an_output([13], FinishReason.LENGTH))
        got += parts
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    # Each step was written as it came.
    assert [len(events(part)) for part in got[:2]] == [1, 1]
    whole = b"".join(got)
    assert whole.endswith(b"data: [DONE]\n\n")
    *pieces, last = events(whole)
    choices = [piece["choices"][0] for piece in pieces]
    assert [choice["token_ids"] for choice in choices] == [[10], [11, 12], [13]]
    assert [choice["finish_reason"] for choice in choices] == [None, None, "length"]
    assert choices[0]["prompt_token_ids"] == [7]
    assert "prompt_token_ids" not in choices[1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert all(piece["usage"] is None for piece in pieces)


def test_prompts_and_choices_are_answered_in_order(serve: Serve) -> None:
    front_end = serve(lambda prompt, sampling: [an_output([sampling.seed % 200, prompt[0]], FinishReason.LENGTH)])
    wish = {"prompt": [[5], [6, 7]], "n": 2, "seed": 3}
    body = front_end.http.post("/v1/completions", json=wish).json()
    choices = body["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert [choice["token_ids"][1] for choice in choices] == [5, 5, 6, 6]
    seeds = [asked.sampling.seed for asked in front_end.ranks[0].asked]
    assert seeds[0] == seeds[2] == 3
    assert seeds[1] == seeds[3] == (3 + 0x9E3779B97F4A7C15) % 2**64
    # A prompt counts once.
    assert body["usage"]["prompt_tokens"] == 3
    assert body["usage"]["completion_tokens"] == 8
    wish["stream"] = True
    streamed = events(front_end.http.post("/v1/completions", json=wish).content)
    assert sorted(event["choices"][0]["index"] for event in streamed) == [0, 1, 2, 3]


def test_every_option_reaches_the_engine(serve: Serve) -> None:
    front_end = serve(saying([1], finish=FinishReason.LENGTH))
    wish = {
        "prompt": [1],
        "model": "other/name",
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "repetition_penalty": 1.2,
        "seed": -1,
        "stop_token_ids": [4, 5],
        "ignore_eos": True,
        "logit_bias": {"7": 2.5, "200": -100},
        "logprobs": 3,
        "priority": -5,
        "user": "somebody",
        "best_of": 1,
        "suffix": None,
    }
    assert front_end.http.post("/v1/completions", json=wish).status_code == 200
    submit = front_end.ranks[0].asked[0].submit
    assert submit.sampling == SamplingParams(
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        presence_penalty=0.2,
        frequency_penalty=-0.3,
        repetition_penalty=1.2,
        seed=2**64 - 1,
        stop_token_ids=(4, 5),
        ignore_eos=True,
        logit_bias={7: 2.5, 200: -100.0},
        logprobs=3,
    )
    assert submit.priority == -5
    assert submit.expected_tokens == 9


def test_logprobs_name_tokens_by_id(serve: Serve) -> None:
    front_end = serve(saying([10, 11], finish=FinishReason.LENGTH))
    choice = front_end.http.post("/v1/completions", json={"prompt": [1], "logprobs": 2}).json()["choices"][0]
    assert choice["logprobs"] == {
        "text_offset": [0, 0],
        "token_logprobs": [-0.5, -0.5],
        "tokens": ["token_id:10", "token_id:11"],
        "top_logprobs": [
            {"token_id:11": -0.25, "token_id:12": -1.25, "token_id:10": -0.5},
            {"token_id:12": -0.25, "token_id:13": -1.25, "token_id:11": -0.5},
        ],
    }


def test_a_stop_token_is_named(serve: Serve) -> None:
    front_end = serve(saying([10, 5], stop_token=5))
    choice = front_end.http.post("/v1/completions", json={"prompt": [1], "stop_token_ids": [5]}).json()["choices"][0]
    assert choice["stop_reason"] == 5
    assert choice["finish_reason"] == "stop"
    assert choice["token_ids"] == [10, 5]


# --- /generate ---


def test_generate_answers_in_sglangs_shape(serve: Serve) -> None:
    front_end = serve(saying([10], [11, END]))
    wish = {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 8, "temperature": 0}, "rid": "mine"}
    assert front_end.http.post("/generate", json=wish).json() == {
        "text": "",
        "output_ids": [10, 11, END],
        "meta_info": {
            "id": "mine",
            "finish_reason": {"type": "stop", "matched": END},
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "cached_tokens": 2,
        },
    }
    sampling = front_end.ranks[0].asked[0].sampling
    assert sampling.max_tokens == 8
    assert sampling.temperature == 0
    assert sampling.logprobs is None


def test_generate_takes_a_batch_with_a_wish_for_each(serve: Serve) -> None:
    front_end = serve(lambda prompt, sampling: [an_output([prompt[0]] * sampling.max_tokens, FinishReason.LENGTH)])
    wish = {
        "input_ids": [[1], [2, 3]],
        "sampling_params": [{"max_new_tokens": 1}, {"max_new_tokens": 2, "sampling_seed": 9}],
    }
    first, second = front_end.http.post("/generate", json=wish).json()
    assert (first["output_ids"], second["output_ids"]) == ([1], [2, 2])
    assert first["meta_info"]["finish_reason"] == {"type": "length", "length": 1}
    assert first["meta_info"]["id"] != second["meta_info"]["id"]
    assert front_end.ranks[0].asked[1].sampling.seed == 9
    choices = front_end.http.post("/generate", json={"input_ids": [4], "sampling_params": {"n": 3}}).json()
    assert [len(choice["output_ids"]) for choice in choices] == [128] * 3


def test_generate_streams_the_new_tokens_of_each_step(serve: Serve) -> None:
    rank = NumberedRank(lambda prompt, sampling: [an_output([10], cached_tokens=1)])
    front_end = serve(rank)
    with front_end.http.stream("POST", "/generate", json={"input_ids": [[7]], "stream": True}) as answer:
        asked = rank.wait_asked(1)[0]
        parts = answer.iter_raw()
        got = next(parts)
        rank.push(asked, an_output([11, 12], FinishReason.STOP, stop_token=12))
        got += b"".join(parts)
    assert got.endswith(b"data: [DONE]\n\n")
    first, last = events(got)
    assert first["index"] == 0
    assert first["output_ids"] == [10]
    assert first["meta_info"]["finish_reason"] is None
    assert first["meta_info"]["completion_tokens"] == 1
    assert first["meta_info"]["cached_tokens"] == 1
    assert last["output_ids"] == [11, 12]
    assert last["meta_info"]["completion_tokens"] == 3
    assert last["meta_info"]["finish_reason"] == {"type": "stop", "matched": 12}


def test_generate_gives_the_log_probabilities_that_are_asked_for(serve: Serve) -> None:
    front_end = serve(saying([10], [11], finish=FinishReason.LENGTH))
    wish = {"input_ids": [1, 2, 3], "return_logprob": True, "top_logprobs_num": 1, "logprob_start_len": 0}
    meta = front_end.http.post("/generate", json=wish).json()["meta_info"]
    assert meta["output_token_logprobs"] == [[-0.5, 10, None], [-0.5, 11, None]]
    assert meta["output_top_logprobs"] == [[[-0.25, 11, None]], [[-0.25, 12, None]]]
    assert meta["input_token_logprobs"] == [[None, 1, None], [-0.5, 2, None], [-0.5, 3, None]]
    assert meta["input_top_logprobs"] == [None, [[-0.25, 3, None]], [[-0.25, 4, None]]]
    wish = {"input_ids": [1, 2, 3], "return_logprob": True}
    meta = front_end.http.post("/generate", json=wish).json()["meta_info"]
    assert len(meta["output_token_logprobs"]) == 2
    assert not {"input_token_logprobs", "output_top_logprobs"} & set(meta)


def test_a_prompt_can_be_scored_without_an_answer(serve: Serve) -> None:
    front_end = serve(saying([10], finish=FinishReason.LENGTH))
    wish = {
        "input_ids": [1, 2, 3],
        "sampling_params": {"max_new_tokens": 0},
        "return_logprob": True,
        "logprob_start_len": 1,
    }
    answer = front_end.http.post("/generate", json=wish).json()
    assert answer["output_ids"] == []
    assert answer["meta_info"]["completion_tokens"] == 0
    assert answer["meta_info"]["input_token_logprobs"] == [[-0.5, 2, None], [-0.5, 3, None]]
    assert answer["meta_info"]["output_token_logprobs"] == []
    assert front_end.ranks[0].asked[0].sampling.max_tokens == 1


# --- status ---


def test_status_endpoints_tell_of_process_ranks_and_models(start: Callable[..., FrontEnd]) -> None:
    front_end = start().serving()
    assert front_end.http.get("/health").json() == {"status": "ok"}
    waiting = front_end.http.get("/ready")
    assert waiting.status_code == 503
    assert waiting.json() == {"status": "waiting for a rank", "ranks": []}
    front_end.attach(NumberedRank(rank=1), listener=1)
    ready = front_end.http.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready",
        "ranks": [
            {
                "rank": 1,
                "incarnation": 1,
                "max_num_seqs": 64,
                "kv_cache_tokens": 65536,
                "own_requests": 0,
                "running": 3,
                "waiting": 1,
                "kv_used_tokens": 512,
            }
        ],
    }
    models = front_end.http.get("/v1/models").json()["data"]
    assert [(model["id"], model["root"], model["max_model_len"]) for model in models] == [
        ("test-model", "test-model", 2048),
        ("other/name", "test-model", 2048),
    ]
    assert front_end.http.get("/v1/models/other/name").json() == models[1]
    assert front_end.http.get("/v1/models/nothing").status_code == 404
    assert front_end.http.head("/health").status_code == 200


def test_metrics_count_what_was_done(serve: Serve) -> None:
    front_end = serve(saying([10], [11, END]))
    for _ in range(2):
        front_end.http.post("/v1/completions", json={"prompt": [1, 2, 3]})
    front_end.http.post("/generate", json={"input_ids": []})
    text = front_end.http.get("/metrics").text
    from prometheus_client.parser import text_string_to_metric_families

    found = {
        (sample.name, *sorted((name, value) for name, value in sample.labels.items() if name != "model_name")): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    engine = ("engine", "0")
    assert found["vllm:prompt_tokens_total", engine] == 6
    assert found["vllm:generation_tokens_total", engine] == 6
    assert found["vllm:request_success_total", engine, ("finished_reason", "stop")] == 2
    assert found["vllm:request_success_total", engine, ("finished_reason", "error")] == 0
    assert found["vllm:request_queue_time_seconds_sum", engine] == 0.5
    assert found["vllm:request_prefill_time_seconds_sum", engine] == 1.0
    assert found["vllm:request_params_n_count", engine] == 2
    assert found["vllm:iteration_tokens_total_bucket", engine, ("le", "1.0")] == 60
    assert found["vllm:iteration_tokens_total_sum", engine] == 90_000
    cache = [("block_size", "16"), ("enable_prefix_caching", "True"), engine, ("num_gpu_blocks", "4096")]
    assert found["vllm:cache_config_info", *cache] == 1
    assert found["http_requests_total", ("handler", "/generate"), ("method", "POST"), ("status", "4xx")] == 1
    assert found["vllm:time_to_first_token_seconds_count", engine] == 2
    assert found["vllm:e2e_request_latency_seconds_count", engine] == 2
    assert found["vllm:num_requests_running", ("engine", "0")] == 3
    assert found["phalanx:ranks",] == 1
