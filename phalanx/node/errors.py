"""Why a node cannot be part of the service."""


class NodeError(Exception):
    """This machine cannot be part of the service; says why and what to do, in one line."""
