"""Numbered SQL files; the number is the schema version (`PRAGMA user_version`)."""
