"""``python -m padis_lightning``, which imports nothing from the working folder: that may hold anybody's files."""

import os
import sys

if not getattr(sys.flags, "safe_path", False):  # else python has left it out
    here = os.getcwd()
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) != here:  # the package itself, in a checkout
        sys.path[:1] = [path for path in sys.path[:1] if path not in ("", here)]

from padis_lightning.commands import main

if __name__ == "__main__":
    main()
