"""What the lane and a judge tell each other over their socket: a length, then that many bytes of pickle.

Both ends are processes of ours and the socket has no name, so nobody else can write to it.
"""

import pickle
import struct
from dataclasses import dataclass
from typing import TypeAlias

from ingest.authorization.question import Question
from ingest.authorization.ruling import Ruling

LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Ready:
    """A judge has loaded everything and can be asked."""


@dataclass(frozen=True, slots=True)
class Put:
    """A question is put to a judge, under a number of its own."""

    number: int
    question: Question
    spared: frozenset[str]


@dataclass(frozen=True, slots=True)
class Begun:
    """A judge is about to ask a policy."""

    number: int
    policy: str


@dataclass(frozen=True, slots=True)
class Ruled:
    """A judge has done with a question."""

    number: int
    ruling: Ruling


Frame: TypeAlias = Ready | Put | Begun | Ruled


def packed(frame: Frame) -> bytes:
    """Write a frame."""
    content = pickle.dumps(frame, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(content)) + content


def unpacked(content: bytes) -> Frame:
    """Read what follows the length."""
    frame: Frame = pickle.loads(content)  # noqa: S301 - see above: from our own process, over a socket without a name
    return frame
