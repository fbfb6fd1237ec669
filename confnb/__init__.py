"""What a classifier's confidence can be trusted for when somebody tries to fool it: the public names, each loaded when it is first used."""

import lazy_loader

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names stand in __init__.pyi
