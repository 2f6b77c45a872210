"""Conversation logs: exports of Slack and Zendesk, logged requests, feedback, and rows of any format."""

from llamafarm_ray.data.conversations.files import find_row_files
from llamafarm_ray.data.conversations.reading import FileOutcome, read_conversations

__all__ = ["FileOutcome", "find_row_files", "read_conversations"]
