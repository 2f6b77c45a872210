"""Exports of chat and support tools as conversations, beside files of rows."""

from llamafarm_ray.data.conversations.reading import read_conversations

__all__ = ["read_conversations"]
