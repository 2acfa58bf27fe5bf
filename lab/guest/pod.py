#!/usr/bin/python3
"""What a pod runs: the machines' service under the pod's name. It needs no configuring, and ends when told to."""

import runpy
import signal
import socket
import sys
from pathlib import Path

Path("/etc/machine-name").write_text(f"{socket.gethostname()}\n")
Path("/etc/lab-service/environment").touch()
# The first process of a container is not ended by signals that it does not handle.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
runpy.run_path("/usr/local/bin/service", run_name="__main__")
