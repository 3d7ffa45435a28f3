"""``python -m padis_lightning``."""

from padis_lightning.commands import main

if __name__ == "__main__":
    main()
