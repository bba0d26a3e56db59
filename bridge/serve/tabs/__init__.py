"""The page's tabs, made of Gradio's components; what they do is in `bridge.serve.studio`."""
