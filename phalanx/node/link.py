"""The connection to the supervisor, in the event loop."""

import asyncio
from collections.abc import Callable

import msgspec

from phalanx import running_time
from phalanx.protocol import Message, ToNode
from phalanx.transport.channel import Channel

_decoder: msgspec.msgpack.Decoder[ToNode] = msgspec.msgpack.Decoder(ToNode)


class SupervisorLink:
    """Gives messages on as they come; `ended` is set once the connection is over, from whatever side."""

    def __init__(self, channel: Channel, received: Callable[[ToNode], None], lost: Callable[[str], None]) -> None:
        self._channel = channel
        self._received = received
        self._lost = lost
        self.ended = asyncio.Event()
        self._farewell = False
        self._sent = asyncio.Event()
        """The kernel has taken all of it."""
        self.host = channel.local_host
        """Our own address, as the supervisor's machine reaches it."""
        self._sent.set()
        self._loop = asyncio.get_running_loop()
        channel.setblocking(False)
        self._loop.add_reader(channel, self._read)
        # What came right behind the handshake has been read with it; the socket will not announce it again.
        self._loop.call_soon(self._read)

    def send(self, message: Message) -> None:
        """Queue one message; never blocks. Does nothing once the connection is over, or we have said farewell."""
        if not self.ended.is_set() and not self._farewell:
            try:
                self._channel.post(message)
            except ConnectionError as error:
                self._end(str(error))
            else:
                self._await_room()

    @property
    def pending(self) -> int:
        """Bytes queued that the kernel has not taken yet."""
        return self._channel.pending

    async def farewell(self, patience: float) -> None:
        """Say that nothing more comes, and wait until the supervisor has heard it all: it closes then.

        Closing at once could take back what it has not read yet.
        """
        self._farewell = True
        try:
            async with running_time.timeout(patience):
                await self._sent.wait()
                self._channel.end_sending()
                await self.ended.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        self._forget()
        self._channel.close()

    def _read(self) -> None:
        if self.ended.is_set():
            return
        try:
            messages = self._channel.drain(_decoder)
        except ConnectionError as error:
            self._end(str(error))
            return
        for message in messages:
            self._received(message)

    def _write(self) -> None:
        try:
            self._channel.flush()
        except ConnectionError as error:
            self._end(str(error))
        else:
            self._await_room()

    def _await_room(self) -> None:
        if self._channel.pending:
            self._sent.clear()
            self._loop.add_writer(self._channel, self._write)
        elif not self._sent.is_set():
            self._sent.set()
            self._loop.remove_writer(self._channel)

    def _end(self, reason: str) -> None:
        self._forget()
        # Not from within `send`: whoever sends is in the middle of something.
        self._loop.call_soon(self._lost, reason)

    def _forget(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self._sent.set()
            self._loop.remove_reader(self._channel)
            self._loop.remove_writer(self._channel)
