"""``python -m fastrobust`` is the command ``fastrobust``."""

from .cli.app import main

if __name__ == "__main__":
    main()
