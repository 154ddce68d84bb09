"""Conversation to tokens and reply text to tool calls: the one renderer and the one parser of the project."""
