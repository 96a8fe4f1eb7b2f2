"""GET /v1/models and /v1/models/{model}."""

from typing import Literal

import msgspec

from phalanx.api.http import Exchange
from phalanx.api.openai.common import check_model
from phalanx.api.service import Service


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


def _model(name: str, service: Service) -> Model:
    return Model(
        id=name,
        created=service.started,
        root=service.config.served_names[0],
        max_model_len=service.max_model_len,
    )


async def list_models(exchange: Exchange, service: Service) -> None:
    await exchange.reply_json(ModelList(data=[_model(name, service) for name in service.config.served_names]))


async def show_model(exchange: Exchange, service: Service) -> None:
    # A name may be a path, so it is all that follows.
    name = check_model(exchange.parameter, service.config)
    await exchange.reply_json(_model(name, service))
