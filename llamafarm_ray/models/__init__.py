"""Base models as folders on disk, and chats as tokens: what training, evaluation and serving share."""
