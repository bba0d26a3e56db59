"""bridge serve."""

import argparse

from bridge.commands.common import load_model, words
from bridge.extras import import_extra
from bridge.writing import tell


def serve(args: argparse.Namespace) -> None:
    """Open the web page of a model until Ctrl-C.

    Raises:
        UsageError: Gradio is missing, or the address is taken.
    """
    with words({"port": "--port"}):
        import_extra("gradio", "serve", "gradio", "the web page")
        from bridge.serve.app import LOCAL, free_port, run  # noqa: PLC0415

        port = free_port(args.host, args.port)
    pipe = load_model(args.model)
    where = "for this machine alone" if args.host in (LOCAL, "localhost", "::1") else "for everybody who can reach it"
    host = f"[{args.host}]" if ":" in args.host else args.host
    tell(f"http://{host}:{port}, {where}; Ctrl-C ends it")
    run(pipe, args.host, port)
