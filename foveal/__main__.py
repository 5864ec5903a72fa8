"""python -m foveal, and the command foveal."""

import sys


def main() -> None:
    """Run the command line; an interruption while it is imported ends as one of a command does."""
    try:
        from foveal.cli import main as commands
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        # As shells count: 128 + SIGINT.
        sys.exit(130)
    commands()


if __name__ == "__main__":
    main()
