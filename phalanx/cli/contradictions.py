"""Options that are right one by one and wrong together. Pure: an option that would be ignored is refused instead."""

from collections.abc import Iterator
from pathlib import Path

from phalanx.cli.options import Given, UsageError
from phalanx.config import Config, EngineOptions, HttpOptions, ModelOptions, ParallelOptions

_MODEL_ENGINE_ONLY = ("load_format", "dtype", "seed", "cpu_threads", "gpu_memory_utilization", "enforce_eager")
_SYNTHETIC_ENGINE_ONLY = ("synthetic_rate", "synthetic_stage")


def refuse_contradictions(given: Given) -> None:
    """Check what can be told before the checkpoint is read.

    Raises:
        UsageError: the first contradiction; names the options as they were given.
    """
    for message in _contradictions(given):
        raise UsageError(message)


def refuse_unfit(config: Config) -> None:
    """Check what depends on the checkpoint.

    Raises:
        UsageError: the service could never run one request of full length.
    """
    cache, length, block = config.engine.kv_cache_tokens, config.facts.max_model_len, config.engine.block_size
    if cache is None:
        return
    # Both are held in whole blocks.
    holds, needs = cache // block * block, -(-length // block) * block
    if holds < needs:
        raise UsageError(
            f"--kv-cache-tokens {cache} cannot hold one request of --max-model-len {length}: "
            f"give at least {needs}, or a --max-model-len of at most {holds}"
        )


def _contradictions(given: Given) -> Iterator[str]:
    origins = given.origins
    model: ModelOptions = given.groups["model"]
    engine: EngineOptions = given.groups["engine"]
    parallel: ParallelOptions = given.groups["parallel"]
    http: HttpOptions = given.groups["http"]

    if engine.engine == "synthetic":
        for name in _MODEL_ENGINE_ONLY:
            if name in origins:
                yield f"{origins[name]} has no meaning with --engine synthetic, which runs no model"
    else:
        for name in _SYNTHETIC_ENGINE_ONLY:
            if name in origins:
                yield f"{origins[name]} needs --engine synthetic"
        if "seed" in origins and model.load_format != "dummy":
            yield (
                f"{origins['seed']} is the seed of --load-format dummy; for repeatable text set `seed` in the request"
            )
    for text in engine.synthetic_stage:
        yield from _synthetic_stage(text, parallel.data_parallel_size)

    if model.revision is not None and model.model is None:
        yield f"{origins['revision']} needs a hub name as MODEL; the demo model has no revisions"
    if model.revision is not None and model.model is not None and Path(model.model).is_dir():
        yield f"{origins['revision']} needs a hub name as MODEL, and {model.model} is a folder"
    if "kv_cache_tokens" in origins and "gpu_memory_utilization" in origins:
        yield f"{origins['kv_cache_tokens']} and {origins['gpu_memory_utilization']} both set the KV cache: give one"
    if (
        "max_num_batched_tokens" in origins
        and "max_num_seqs" in origins
        and engine.max_num_batched_tokens < engine.max_num_seqs
    ):
        yield (
            f"{origins['max_num_batched_tokens']} {engine.max_num_batched_tokens} is below "
            f"{origins['max_num_seqs']} {engine.max_num_seqs}: each running request takes a token a step"
        )
    if engine.kv_cache_tokens is not None and engine.kv_cache_tokens < engine.block_size:
        yield f"--kv-cache-tokens {engine.kv_cache_tokens} is less than one block of --block-size {engine.block_size}"
    if any(not key.strip() for key in http.api_key):
        yield f"{origins['api_key']}: an empty key would let everybody in"
    if any(not name.strip() for name in model.served_model_name):
        yield f"{origins['served_model_name']}: an empty name"
    if model.chat_template is not None and not Path(model.chat_template).is_file():
        yield f"{origins['chat_template']}: there is no file {model.chat_template}"


def _synthetic_stage(text: str, ranks: int) -> Iterator[str]:
    # Here and not above: what is for drills costs an ordinary start nothing.
    from phalanx.engine.drills import parse

    try:
        rank = parse(text).rank
    except ValueError as error:
        yield str(error)
    else:
        if rank is not None and rank >= ranks:
            yield f"--synthetic-stage {text}: there is no rank {rank}; ranks are 0 to {ranks - 1}"
