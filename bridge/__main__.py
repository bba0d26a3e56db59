"""The command `bridge`, also as `python -m bridge`: Ctrl-C is one line from the first import on."""

import sys


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        from bridge.cli import main as run  # noqa: PLC0415

        return run()
    except KeyboardInterrupt:
        print("bridge: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
