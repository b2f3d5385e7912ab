"""How long something takes and how much memory."""

import pathlib
import time


def resident(field):
    """Bytes of VmRSS (now) or VmHWM (most so far) of this process. `ru_maxrss` would count what its parent had."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


class Usage:
    """`with Usage() as used: ...`, then `used.found()`: seconds, and the most memory taken beyond that at its start."""

    def __enter__(self):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
        self.before, self.start = resident("VmRSS"), time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds, self.peak = time.monotonic() - self.start, resident("VmHWM") - self.before

    def found(self):
        return {"seconds": self.seconds, "peak_rss_bytes": self.peak}
