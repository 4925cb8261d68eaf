"""What a child process and its supervisor say to each other, over one socket pair per child.

The socket is also the lifeline: when the supervisor dies, however it dies, its end closes and every child
reads end-of-file, which means *stop at once*. Messages are length-prefixed msgpack.
"""

from __future__ import annotations

import select
import socket
import struct

import msgspec

from engine.model import Missed, StreamKept
from engine.observe import logs
from engine.ring.counters import ChildState, StatusRow
from engine.routing.feeds import Feed
from engine.routing.nodes import Topology

_LENGTH = struct.Struct("<I")
_MESSAGE_BYTES_MAX = 16 * 1024 * 1024


class Drain(msgspec.Struct, tag=True, frozen=True):
    """Supervisor → child: deliver what was captured, accept nothing new, then exit with 0."""


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Supervisor → child: exit at once."""


class SetLogLevel(msgspec.Struct, tag=True, frozen=True):
    """Supervisor → child: write log lines of this level and above; "" is the settings' level."""

    level: str


class SetRoutes(msgspec.Struct, tag=True, frozen=True):
    """Supervisor → child: route by this table (`engine.routing.routes.RouteTable.encode`) from now on.

    ``missed`` is what its new routes have to receive first.
    """

    table: bytes
    missed: tuple[Missed, ...] = ()


class SetFeeds(msgspec.Struct, tag=True, frozen=True):
    """Supervisor → subscriber: listen to these feeds, and to no others, from now on.

    ``version`` is that of the topology. ``missed`` is, by node number, what new feeds, and those that gained slots,
    have to find first. From here on watermarks carry this version, and a node's are not sent before that is found.
    ``streams`` has what is kept of each: those of new feeds were read elsewhere until now.
    """

    version: int
    feeds: tuple[Feed, ...]
    missed: dict[int, tuple[Missed, ...]] = {}
    streams: dict[str, StreamKept] = {}


class SetTopology(msgspec.Struct, tag=True, frozen=True):
    """Supervisor → invoker: read keys from these nodes from now on.

    ``nodes`` are, by number, those that each shard has feeds on (`engine.routing.feeds.nodes_of`).
    """

    topology: Topology
    nodes: tuple[tuple[int, ...], ...]


class TopologyInForce(msgspec.Struct, tag=True, frozen=True):
    """Child → supervisor: the feeds, or the nodes, of this version are in force here."""

    version: int


class TopologyChanged(msgspec.Struct, tag=True, frozen=True):
    """Child → supervisor: the nodes, or their slots, may have changed; ask them."""

    reason: str


class RoutesInForce(msgspec.Struct, tag=True, frozen=True):
    """Child → supervisor: the table of this version is in force here."""

    version: int


class MappingChanged(msgspec.Struct, tag=True, frozen=True):
    """Subscriber → supervisor: a mapping hash in Redis changed; the routes have to be read again."""


class PromiseBroken(msgspec.Struct, tag=True, frozen=True):
    """Invoker → supervisor: a function no longer keeps older values out by itself; ask them all again."""


class CompareWanted(msgspec.Struct, tag=True, frozen=True):
    """Subscriber → supervisor: keys may have been deleted unheard; compare with the destinations."""

    number: int


class RepairWanted(msgspec.Struct, tag=True, frozen=True):
    """Invoker → supervisor → subscribers: changes may be lost; scan for them.

    ``since_ms`` is since when, by node number (Unix ms of the node), and since the beginning for a node that is missing
    there. Only this ``shard`` is concerned, all shards if it is −1. The ``number`` is the supervisor's.
    """

    since_ms: dict[int, int] = {}
    shard: int = -1
    number: int = 0


class RepairTaken(msgspec.Struct, tag=True, frozen=True):
    """Subscriber → supervisor: this repair is under way, and passes to a successor if we die before its end."""

    number: int


class RouteStanding(msgspec.Struct, frozen=True):
    """The state of a route in one invoker. ``keys_backlog`` wait on disk, ``keys_set_aside`` of them because they keep
    failing by themselves; keys in flight include those that wait for their next attempt.

    ``oldest_ms`` is when the oldest undelivered change was captured, set-aside keys apart, 0 for none. All
    times are Unix ms. ``failing_since_ms`` is 0 while the newest outcome settled something. ``error`` is the last one.
    """

    route: str
    keys_waiting: int = 0
    keys_in_flight: int = 0
    keys_backlog: int = 0
    keys_set_aside: int = 0
    oldest_ms: int = 0
    failing_since_ms: int = 0
    error: str = ""
    error_ms: int = 0


class Standings(msgspec.Struct, tag=True, frozen=True):
    """Invoker → supervisor: the state of its routes."""

    routes: tuple[RouteStanding, ...]


class StreamsSettled(msgspec.Struct, tag=True, frozen=True):
    """Subscriber → supervisor: what is to be kept of each stream."""

    settled: dict[str, StreamKept]


class Compared(msgspec.Struct, tag=True, frozen=True):
    """Supervisor → subscriber: the comparison that was asked for is done, and what it found was published."""

    number: int


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Child → supervisor: why this child is about to exit, in words for the user."""

    message: str
    hint: str = ""


_OfSupervisor = Drain | Stop | SetLogLevel | SetRoutes | Compared | SetFeeds | SetTopology
_OfChild = (
    RoutesInForce
    | TopologyInForce
    | TopologyChanged
    | MappingChanged
    | PromiseBroken
    | RepairWanted
    | RepairTaken
    | CompareWanted
    | Standings
    | StreamsSettled
    | Failed
)
Message = _OfSupervisor | _OfChild

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end of a socket pair that carries messages; reads never block."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._sock.fileno()

    def send(self, message: Message) -> bool:
        """Send one message; False if the other side is gone."""
        payload = _encoder.encode(message)
        assert len(payload) <= _MESSAGE_BYTES_MAX
        try:
            self._sock.sendall(_LENGTH.pack(len(payload)) + payload)
        except OSError:
            self.closed = True
        return not self.closed

    def receive(self) -> list[Message]:
        """Return all messages that are here; ``closed`` turns true at the other side's end."""
        while not self.closed:
            try:
                data = self._sock.recv(65_536, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
            self._received += data
        return list(self._take())

    def has_room(self) -> bool:
        """Tell whether a message of some ten kilobytes can be sent without waiting for the other side."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        return not self.closed and bool(poll.poll(0))

    def _take(self) -> list[Message]:
        messages: list[Message] = []
        while len(self._received) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._received)
            if len(self._received) < _LENGTH.size + size:
                break
            messages.append(_decoder.decode(bytes(self._received[_LENGTH.size : _LENGTH.size + size])))
            del self._received[: _LENGTH.size + size]
        return messages

    def close(self) -> None:
        """Close this end."""
        self.closed = True
        self._sock.close()


def channel_pair() -> tuple[Channel, Channel]:
    """Return both ends of a new channel: the supervisor's, then the child's."""
    ours, theirs = socket.socketpair()
    return Channel(ours), Channel(theirs)


class ChildLink:
    """What a child holds of its supervisor: commands in, reports and heartbeats out."""

    def __init__(self, channel: Channel, row: StatusRow) -> None:
        self.channel = channel
        self.row = row

    def commands(self) -> list[Message]:
        """Return the supervisor's commands; a dead one means Stop. Log levels are handled here."""
        messages: list[Message] = []
        for message in self.channel.receive():
            if isinstance(message, SetLogLevel):
                logs.set_level(message.level)
            else:
                messages.append(message)
        logs.flush()
        if self.channel.closed:
            messages.append(Stop())
        return messages

    def fileno(self) -> int:
        """Return the descriptor that turns readable when there may be commands."""
        return self.channel.fileno()

    def beat(self, now_ms: int) -> None:
        """Show the supervisor that the loop turns (monotonic milliseconds)."""
        self.row.beat(now_ms)

    def set_state(self, state: ChildState) -> None:
        """Report how far this child's life has come."""
        self.row.set_state(state)

    def report(self, message: Message) -> None:
        """Send the supervisor a message."""
        self.channel.send(message)

    def mention(self, message: Message) -> bool:
        """Send a message that may be dropped: nobody waits for a supervisor that does not read."""
        return self.channel.has_room() and self.channel.send(message)
