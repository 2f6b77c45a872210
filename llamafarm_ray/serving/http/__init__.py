"""ASGI types and answers, errors that only HTTP has a status for, and checks of origins and hosts."""
