"""The ``workload:`` of a scenario: one of several kinds, told apart by ``kind:``.

``spec.build(streams, contents, folders, context_tokens)`` gives the workload:

``streams``
    random streams of the run's seed; every part of a workload has its own.
``contents``
    where its texts are numbered.
``folders``
    what relative paths are searched in, in this order.
``context_tokens``
    the longest context that the cluster serves, for workloads that respect it (chat, agent,
    workflow); None when there is no such limit.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .agent.spec import AgentSpec
from .chat import ChatSpec
from .open_loop import OpenLoopSpec
from .phases import PhasesSpec
from .trace import TraceSpec
from .workflow import WorkflowSpec

WorkloadSpec = Annotated[
    OpenLoopSpec | PhasesSpec | ChatSpec | AgentSpec | WorkflowSpec | TraceSpec,
    Field(discriminator="kind"),
]
