"""A device as edgekit knows it: sourced hardware facts, a budget and a compression strategy."""

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from edgekit.core.strategy import Step
from edgekit.core.verdict import Limit

Value = TypeVar("Value")

UNCONFIRMED = "not confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact(Generic[Value]):
    """A hardware fact and where it was read (document or repository, path, commit, date).

    A source that begins with UNCONFIRMED says why the fact is stated although nobody read it.
    """

    value: Value
    source: str

    @property
    def is_confirmed(self) -> bool:
        """Whether somebody read the fact where the source says."""
        return not self.source.lower().startswith(UNCONFIRMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the device is made of; a fact that nobody could source is absent (None).

    abi: the key of a target's runtime libraries ("android-arm64", "ios-arm64", "linux-x86_64",
    "linux-aarch64", "none" for bare metal). features: instruction set extensions by the names that
    Linux and gcc use ("dotprod", "i8mm", "fp16", "avx2", "avx512_vnni", "dsp", "mve", ...).
    """

    abi: str
    architecture: Fact[str]
    features: Fact[tuple[str, ...]]
    soc: Fact[str] | None = None
    cores: Fact[int] | None = None
    clock_hz: Fact[int] | None = None
    ram_bytes: Fact[int] | None = None
    flash_bytes: Fact[int] | None = None
    accelerators: Fact[tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """One device: facts, what is set aside for the rest of the app, limits, strategy.

    reserve_ram and reserve_flash: bytes that the model may not use. threads: what the app gives
    the model; latency is judged at this count. origin: the file it was read from.
    """

    name: str
    title: str
    family: Literal["phone", "embedded", "edge-server", "laptop"]
    hardware: Hardware
    default_target: str
    limits: tuple[Limit, ...]
    steps: tuple[Step, ...]
    threads: int = 1
    reserve_ram: int = 0
    reserve_flash: int = 0
    float_share_tolerance: float = 0.0
    is_generic: bool = False
    summary: str = ""
    extends: tuple[str, ...] = ()
    origin: str = ""
    digests: dict[str, str] = field(default_factory=dict)
