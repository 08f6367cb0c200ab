"""Docora's own queue."""

from collections.abc import Iterator

import pytest

from tests.bullmq.jobs import Bullmq, Producer
from tests.support.docora import Docora


@pytest.fixture(scope="session")
def producer(redis_url: str) -> Iterator[Producer]:
    producer = Producer(redis_url)
    yield producer
    producer.close()


@pytest.fixture
def bullmq(docora: Docora, producer: Producer) -> Bullmq:
    return Bullmq(docora, producer)
