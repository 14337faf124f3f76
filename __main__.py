"""``python -m infersim``, and the command ``infersim``."""

from .cli.main import main

if __name__ == "__main__":
    main()
