"""flanlite: turn a chat model into an agent that calls tools and does not invent them."""

__version__ = "0.1.0"
