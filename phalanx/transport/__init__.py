"""Sockets, frames and authentication: the only place that knows them. See `listener`, `channel` and `stream`."""
