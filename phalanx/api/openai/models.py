"""GET /v1/models and /v1/models/{model}."""

from typing import Literal

import msgspec

from phalanx.api.app_state import AppState
from phalanx.api.http import Exchange
from phalanx.api.openai.common import check_model


class Model(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "phalanx"
    root: str
    max_model_len: int


class ModelList(msgspec.Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


def _model(name: str, server: AppState) -> Model:
    return Model(
        id=name,
        created=server.started,
        root=server.config.served_names[0],
        max_model_len=server.max_model_len,
    )


async def list_models(exchange: Exchange, server: AppState) -> None:
    await exchange.reply_json(ModelList(data=[_model(name, server) for name in server.config.served_names]))


async def show_model(exchange: Exchange, server: AppState) -> None:
    # A name may be a path, so it is all that follows.
    name = check_model(exchange.parameter, server.config)
    await exchange.reply_json(_model(name, server))
