# SPDX-License-Identifier: GPL-2.0-or-later
"""The first bytes of godwit's channels, and a proxy between two godwits that
spoils what passes through it. The format is in docs/wire-format.md."""

import dataclasses
import socket
import struct
import threading

MAGIC = b"GODWIT\r\n"
VERSION = 1
HELLO = struct.Struct("<8sHHBBHQQ16s32s")
WELCOME = struct.Struct("<8sHHIQ32s160s")
PROOF_LEN = 32
ACCEPT_LEN = 200
CONTROL, BULK, URGENT = 1, 2, 3
CHANNELS = {"control": CONTROL, "bulk": BULK, "urgent": URGENT}
STATUS_OK = 0

TO_DESTINATION, TO_SOURCE = "to the destination", "to the source"


def hello(kind=CONTROL, index=0, version=VERSION, oldest=VERSION, required=0,
          offered=3, session=b"s" * 16, nonce=b"n" * 32, magic=MAGIC):
    return HELLO.pack(magic, version, oldest, kind, 0, index, required, offered,
                      session, nonce)


def receive_exactly(connection, length):
    """`length` bytes, or fewer when the peer has closed."""
    data = b""
    while len(data) < length:
        try:
            piece = connection.recv(length - len(data))
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return data


def connect(address, timeout=5):
    """Connect to HOST:PORT, [V6]:PORT or unix:PATH."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(address[5:])
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


class Server:
    """A listener on a free port of 127.0.0.1 that hands every connection to
    `serve` in a thread of its own; what it raises on a dead socket is nobody's
    business."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._connections = []
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.keep(connection)
            threading.Thread(target=self._serve, args=(connection,),
                             daemon=True).start()

    def _serve(self, connection):
        try:
            self.serve(connection)
        except OSError:
            connection.close()

    def keep(self, connection):
        """Close it with the server."""
        self._connections.append(connection)
        if self._closed:
            connection.close()

    def serve(self, connection):
        raise NotImplementedError

    def close(self):
        self._closed = True
        # closing alone does not wake a thread in accept()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()
        self._thread.join()


class Closer(Server):
    """A peer that closes every connection at once."""

    def serve(self, connection):
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()


class Silence(Server):
    """A peer that accepts, reads, and never says a word."""

    def serve(self, connection):
        while connection.recv(65536):
            pass


class Speaker(Server):
    """A peer that answers every connection with the same bytes."""

    def __init__(self, answer):
        self._answer = answer
        super().__init__()

    def serve(self, connection):
        connection.sendall(self._answer)
        while connection.recv(65536):
            pass


@dataclasses.dataclass(frozen=True)
class Cut:
    """The last bytes that a channel gets through."""
    data: bytes


class Proxy(Server):
    """Stands between a send and a receive (at `target`) and passes everything on,
    except what `spoil` changes.

    spoil(kind, direction, offset, data) gets every piece of a channel with its
    offset in that direction and returns the bytes to pass on, Cut(bytes) to pass
    those on and cut the channel, or None to cut it at once. `kinds` lists the
    channels that were opened, in order.
    """

    def __init__(self, target, spoil=None):
        self._target = target
        self._spoil = spoil or (lambda kind, direction, offset, data: data)
        self.kinds = []
        super().__init__()

    def serve(self, connection):
        beyond = connect(self._target)
        beyond.settimeout(None)
        self.keep(beyond)
        first = receive_exactly(connection, HELLO.size)
        kind = HELLO.unpack(first)[3] if len(first) == HELLO.size else 0
        self.kinds.append(kind)
        back = threading.Thread(target=self._pass, daemon=True,
                                args=(kind, TO_SOURCE, beyond, connection, b""))
        back.start()
        self._pass(kind, TO_DESTINATION, connection, beyond, first)
        back.join()

    def _pass(self, kind, direction, here, there, data):
        offset = 0
        try:
            while True:
                data = data or here.recv(262144)
                if not data:
                    break
                changed = self._spoil(kind, direction, offset, data)
                if isinstance(changed, Cut):
                    there.sendall(changed.data)
                    changed = None
                if changed is None:
                    here.shutdown(socket.SHUT_RDWR)
                    break
                there.sendall(changed)
                offset += len(data)
                data = b""
        except OSError:
            pass
        for end, how in ((there, socket.SHUT_WR), (here, socket.SHUT_RD)):
            try:
                end.shutdown(how)
            except OSError:
                pass


def patch(data, offset, at, new):
    """`data` lies at `offset`; bytes [at, at + len(new)) become `new`."""
    data = bytearray(data)
    for i, byte in enumerate(new):
        if 0 <= at + i - offset < len(data):
            data[at + i - offset] = byte
    return bytes(data)
