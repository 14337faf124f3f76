"""From measured points of an operation to its seconds anywhere: physics first, then residuals.

`fit_op` fits a smooth roofline of the kind of operation (`kinds`) to the points (`prior`) and
models what is left, log(seconds / roofline), by kriging (`kriging`), which interpolates within a
measured shape and carries over to others, or by a random forest (`forest`), where scikit-learn is
installed and it errs less on points held out of those given. `densify` turns a fit into a table
that a simulation interpolates linearly. Only numpy is needed.
"""

from .densify import Span, densify
from .kinds import Columns, Device, Kind, kind_named, kind_names
from .op import OpFit, Prediction, fit_op

__all__ = [
    "Columns",
    "Device",
    "Kind",
    "OpFit",
    "Prediction",
    "Span",
    "densify",
    "fit_op",
    "kind_named",
    "kind_names",
]
