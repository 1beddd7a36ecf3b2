"""Input gradients of a network, computed cheaply; rows in and out of a batch."""

from .answers import Answer, Leaders
from .gradients import Oracle
from .opening import oracle
from .prepared import Model, prepare

__all__ = ["Answer", "Leaders", "Model", "Oracle", "oracle", "prepare"]
