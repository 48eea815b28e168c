"""Containers that functions run in: how they are made, reached, reused, listened to and removed."""
