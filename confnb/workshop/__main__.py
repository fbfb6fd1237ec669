"""Where `confnb` starts: while its modules load, Ctrl-C ends it with a sentence and status 130, not with a traceback."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_begun() -> Iterator[None]:
    """End the process on Ctrl-C, within this block, with a sentence and status 130.

    Nothing was written yet, and imports could turn the interrupt into another error.
    """

    def stop(*_: object) -> None:
        os.write(2, b"confnb: stopped; nothing was begun\n")
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    try:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, stop)
        yield
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


def main() -> None:
    """Load the command line and run it."""
    with nothing_begun():
        from confnb.workshop import cli
    cli.main()


if __name__ == "__main__":
    main()
