"""The chat in a browser: events to HTML by pure functions, and the Gradio page around them."""

import os

# Before any module here imports gradio: it reports each start to its makers otherwise.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
