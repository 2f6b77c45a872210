"""Conversation logs as rows: Slack and Zendesk exports, logs of OpenAI's API, feedback, and chats of any format."""

from llamafarm_ray.data.conversations.conversation import Conversation
from llamafarm_ray.data.conversations.harvest import harvest_conversations
from llamafarm_ray.data.conversations.reading import conversations_at, find_logs

__all__ = ["Conversation", "conversations_at", "find_logs", "harvest_conversations"]
