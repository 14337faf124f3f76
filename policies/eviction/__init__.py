"""Which cached unit leaves first."""

from . import arc as arc
from . import belady as belady
from . import fifo as fifo
from . import filo as filo
from . import gdsf as gdsf
from . import length_aware as length_aware
from . import lfu as lfu
from . import lru as lru
from . import modality_aware as modality_aware
from . import mru as mru
from . import priority as priority
from . import random as random
from . import s3_fifo as s3_fifo
from . import session_ttl as session_ttl
from . import sieve as sieve
from . import slru as slru
from . import tlru as tlru
from . import w_tinylfu as w_tinylfu
from . import workflow_aware as workflow_aware
