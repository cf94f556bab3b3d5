"""A director whose event loop can be blocked from outside, which the product has no way for: SIGUSR2, for BLOCKED_S."""

import signal
import sys
import time

from appliance.__main__ import main

BLOCKED_S = 4.0

if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(BLOCKED_S))
    sys.exit(main())
