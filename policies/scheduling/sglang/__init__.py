"""SGLang's scheduler: the order of its line, its admission arithmetic, its loop."""

from . import scheduler as scheduler
