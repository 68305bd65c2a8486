"""Which version of Bursar this is.

The rule that lives here: it is read from what is installed, so that it is written in one place.
Reading it costs more than importing the package, which is why it has a module of its own.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("bursar")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
