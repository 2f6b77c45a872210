"""Roles, tokens, quotas and the policies of aliases."""
