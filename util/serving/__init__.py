"""The HTTP server around an exported model. Nothing here imports `models`, training code, or paddle."""
