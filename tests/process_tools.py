"""The processes that the tests' own Ray started, by what they call themselves."""

import psutil


def titled(start: str) -> list[psutil.Process]:
    """Descendants of this process whose title begins so; the system keeps fifteen letters of a name, Ray more of it.

    Any of them may end at any moment, before it is asked for its name too: it is left out.
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith(start) or " ".join(process.cmdline()).startswith(start):
                found.append(process)
        except psutil.Error:
            continue
    return found
