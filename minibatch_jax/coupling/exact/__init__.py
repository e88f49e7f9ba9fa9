"""Plans that solve transport exactly: one-to-one, partial and with unequal masses."""

from . import assignments as assignments
from . import partial as partial
from . import transports as transports
