"""Threadkeep: a server for OpenAI's Assistants API in front of any model server that speaks Chat Completions."""

__version__ = "0.1.0"
