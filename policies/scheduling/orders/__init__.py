"""Orders of the waiting line, one family a file; `preemptive` ranks the batch by them too."""

from . import deadline as deadline
from . import feedback as feedback
from . import jobs as jobs
from . import prompt as prompt
