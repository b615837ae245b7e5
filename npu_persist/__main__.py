"""`python -m npu_persist` is `npu-persist`."""

from __future__ import annotations

import sys

from npu_persist.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
