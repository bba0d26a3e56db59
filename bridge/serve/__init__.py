"""The web page: `bridge serve`. Gradio, an extra, is imported by `page` alone."""
