"""Which replica serves a request."""

from . import affinity as affinity
from . import simple as simple
