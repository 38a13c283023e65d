"""Rights on a broker that checks them: grants and takes away. Speaks to Kafka."""

from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String

CHECKED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
"""Properties of a broker on which a resource is open to all until somebody has a right to it."""

TOPIC, GROUP, TRANSACTIONAL_ID = 2, 3, 5


class Right(NamedTuple):
    """All rights to the resources whose names begin so, for one user: nobody else has any."""

    resource: int
    prefix: str
    user: str = "somebody-else"


async def grant(broker: str, right: Right) -> None:
    """From now on the user may, and others may not unless they are granted it too."""
    reply = await _send(broker, _CreateAcls(right))
    assert [code for code, _ in reply.results] == [0], reply


async def take_away(broker: str, right: Right) -> None:
    """As before the grant."""
    reply = await _send(broker, _DeleteAcls(right))
    assert [(code, len(matches)) for code, _, matches in reply.results] == [(0, 1)], reply


async def _send(broker: str, request: Any) -> Any:
    client = AIOKafkaClient(bootstrap_servers=broker)
    await client.bootstrap()
    try:
        return await client.send(client.get_random_node(), request)
    finally:
        await client.close()


_TEXT = String("utf-8")
_PREFIXED, _ALL, _ALLOW = 4, 2, 3


class _CreateAclsResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 30
    API_VERSION = 1
    SCHEMA = Schema(("throttle", Int32), ("results", Array(("code", Int16), ("message", _TEXT))))


class CreateAclsV1(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 30
    API_VERSION = 1
    RESPONSE_TYPE = _CreateAclsResponse
    SCHEMA = Schema(
        (
            "creations",
            Array(
                ("resource", Int8),
                ("name", _TEXT),
                ("pattern", Int8),
                ("principal", _TEXT),
                ("host", _TEXT),
                ("operation", Int8),
                ("permission", Int8),
            ),
        )
    )


class _CreateAcls(Request[CreateAclsV1]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 30

    def __init__(self, right: Right) -> None:
        self._right = right

    def build(self, request_struct_class: type[CreateAclsV1]) -> CreateAclsV1:
        right = self._right
        row = (right.resource, right.prefix, _PREFIXED, f"User:{right.user}", "*", _ALL, _ALLOW)
        return request_struct_class([row])


class _DeleteAclsResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 31
    API_VERSION = 1
    SCHEMA = Schema(
        ("throttle", Int32),
        (
            "results",
            Array(
                ("code", Int16),
                ("message", _TEXT),
                (
                    "matches",
                    Array(
                        ("code", Int16),
                        ("message", _TEXT),
                        ("resource", Int8),
                        ("name", _TEXT),
                        ("pattern", Int8),
                        ("principal", _TEXT),
                        ("host", _TEXT),
                        ("operation", Int8),
                        ("permission", Int8),
                    ),
                ),
            ),
        ),
    )


class _DeleteAclsV1(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 31
    API_VERSION = 1
    RESPONSE_TYPE = _DeleteAclsResponse
    SCHEMA = Schema(
        (
            "filters",
            Array(
                ("resource", Int8),
                ("name", _TEXT),
                ("pattern", Int8),
                ("principal", _TEXT),
                ("host", _TEXT),
                ("operation", Int8),
                ("permission", Int8),
            ),
        )
    )


class _DeleteAcls(Request[_DeleteAclsV1]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 31

    def __init__(self, right: Right) -> None:
        self._right = right

    def build(self, request_struct_class: type[_DeleteAclsV1]) -> _DeleteAclsV1:
        right = self._right
        row = (right.resource, right.prefix, _PREFIXED, f"User:{right.user}", "*", _ALL, _ALLOW)
        return request_struct_class([row])
