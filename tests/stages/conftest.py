"""A server on the loopback that revises, as others judge."""

from __future__ import annotations

from judge_server import serve

__all__ = ["serve"]
