"""Run the terminal program with ``python -m otel_intercept``."""

import sys

from otel_intercept.cli import main

if __name__ == "__main__":
    sys.exit(main())
