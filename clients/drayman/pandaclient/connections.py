"""The channels that all functions of the process share."""

from __future__ import annotations

from drayman.data_dispatcher.connections import Connections

#: Opened when first needed, and anew in a forked process.
CONNECTIONS = Connections()
