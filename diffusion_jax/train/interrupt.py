"""Leave when asked to: SIGINT and SIGTERM become a flag that the loop reads between steps."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked the run to end, and how."""

    def __init__(self) -> None:
        self.signal_number = 0

    def __bool__(self) -> bool:
        """Return whether to stop."""
        return self.signal_number != 0

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that came, or None."""
        return signal.Signals(self.signal_number).name if self.signal_number else None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch the first SIGINT or SIGTERM; the second one has its usual effect.

    Outside the main thread, where Python delivers no signals, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def catch(number: int, frame: FrameType | None) -> None:
        request.signal_number = int(number)
        restore()
        logger.warning(
            "%s: finishing the step and saving; send it again to stop at once", request.signal_name
        )

    for number in _SIGNALS:
        signal.signal(number, catch)
    try:
        yield request
    finally:
        restore()
