"""Forward passes and faster layers."""
