"""The audit trail, policies, principals and quotas."""
