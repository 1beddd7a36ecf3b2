"""``python -m fastrobust`` is the command ``fastrobust``."""

from .cli import main

if __name__ == "__main__":
    main()
