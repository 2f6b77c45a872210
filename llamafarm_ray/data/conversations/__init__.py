"""Conversation logs: exports of Slack and Zendesk, logged requests, feedback, and rows of any format."""

from llamafarm_ray.data.conversations.reading import read_conversations

__all__ = ["read_conversations"]
