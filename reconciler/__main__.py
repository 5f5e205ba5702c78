"""``python -m reconciler`` is the command ``metald``."""

from reconciler.cli.main import main

if __name__ == "__main__":
    main()
