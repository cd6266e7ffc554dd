"""A real Ceph for the tests: its S3 gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from examples.scaled.parts import ceph
from examples.scaled.parts.ceph import Ceph as Ceph
from tests.support.parts import skipped_where_missing


@contextmanager
def ceph_cluster() -> Iterator[Ceph]:
    """A running one; at the end it is removed with all its objects."""
    with skipped_where_missing(), ceph.ceph_cluster() as cluster:
        yield cluster
