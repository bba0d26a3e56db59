"""bridge info and bridge push."""

import argparse

from bridge.commands.common import UsageError, load_model


def info(args: argparse.Namespace) -> None:
    """Print what is in a model."""
    from bridge.about import describe  # noqa: PLC0415
    from bridge.hub import resolve_model  # noqa: PLC0415

    pipe = load_model(args.model, "MODEL")
    print(describe(pipe, resolve_model(args.model)))


def push(args: argparse.Namespace) -> None:
    """Upload a model with its card, and print where it is.

    Raises:
        UsageError: The hub refuses, or cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    from bridge.about import card_of  # noqa: PLC0415
    from bridge.hub import resolve_model  # noqa: PLC0415

    pipe = load_model(args.model, "MODEL")
    try:
        print(pipe.push_to_hub(args.repo, card_of(resolve_model(args.model)), private=args.private))
    except HFValidationError as error:
        raise UsageError(f"USER/NAME: {str(error).splitlines()[0]}") from None
    except (HfHubHTTPError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise UsageError(f"USER/NAME: the hub did not take {args.repo} ({why}); log in with `hf auth login`") from None
