"""``python -m lossaware`` is the command ``lossaware``."""

from lossaware.cli import main

if __name__ == "__main__":
    main()
